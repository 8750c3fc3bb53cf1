"""Transports over a Unix socket: direct connections to sessions, the server's connections, and array connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from functools import partial
from typing import Any, TypeVar

from venvd._async.socket_transport import AsyncSocketTransport
from venvd._sync.socket_transport import SocketTransport
from venvd._transports import direct
from venvd._transports.array_connections import Abort, ArrayConnections
from venvd._transports.base import AsyncRun, Call, Event, Run
from venvd._transports.direct_aio import AsyncDirectCalls
from venvd._transports.direct_blocking import DirectCalls
from venvd._transports.pipe import PipeCodec, PipeReply
from venvd_contract.arrays import Header

T = TypeVar("T")


class PipeTransport:
    """Carries calls directly to their session if the backend offers that, else through the server.

    Arrays have separate connections.
    """

    def __init__(self, codec: PipeCodec) -> None:
        self.url = codec.endpoint.url
        self._server = SocketTransport(codec)
        self._array_connections = ArrayConnections(codec.endpoint, codec.token)
        self._direct = DirectCalls(codec.endpoint, codec.token, self._server.call)
        self.call: Run = self._direct.call

    def replace_server_call(self, call: Run) -> Run:
        """Send calls that no session answers directly with `call`. Return the earlier function for them."""
        before, self._direct.server = self._direct.server, call
        return before

    def stream(self, call: Call[Any]) -> Generator[Event, None, None]:
        reader = PipeReply()
        arrivals = self._direct.stream(call, reader)
        if arrivals is None:
            yield from self._server.stream(call)
            return
        with closing(arrivals):
            for _ in arrivals:
                yield from reader.events()
        direct.check_reply(reader.reply)
        yield Event("result", call.finish(reader.result()))

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return self._array_connections.get(call)

    def put_array(self, call: Call[T], data: memoryview) -> T:
        return call.finish(self._array_connections.put(call, data))

    def close(self) -> None:
        self._array_connections.close()
        self._direct.close()
        self._server.close()


class AsyncPipeTransport(AsyncSocketTransport):
    """Does what `PipeTransport` does for an event loop. Threads copy the arrays, so that the loop goes on."""

    def __init__(self, codec: PipeCodec) -> None:
        super().__init__(codec)
        self._array_connections = ArrayConnections(codec.endpoint, codec.token)
        self._direct = AsyncDirectCalls(codec.endpoint, codec.token)
        self._call_server: AsyncRun = super().call

    def replace_server_call(self, call: AsyncRun) -> AsyncRun:
        """Do the same as `PipeTransport.replace_server_call`."""
        before, self._call_server = self._call_server, call
        return before

    async def call(self, call: Call[T]) -> T:
        reply = await self._direct.call(call)
        if reply is not None:
            return call.finish(direct.decode_reply(reply))
        if not direct.ends_state(call):
            return await self._call_server(call)
        self._direct.expect_end(call.payload["id"])
        try:
            return await self._call_server(call)
        finally:
            self._direct.expect_end(call.payload["id"])

    async def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        reader = PipeReply()
        arrivals = await self._direct.stream(call, reader)
        if arrivals is None:
            async for event in super().stream(call):
                yield event
            return
        async with aclosing(arrivals):
            async for _ in arrivals:
                for event in reader.events():
                    yield event
        direct.check_reply(reader.reply)
        yield Event("result", call.finish(reader.result()))

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        abort = Abort()
        return await _run_in_thread(abort, self._array_connections.get, call, abort)

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        abort = Abort()
        return call.finish(await _run_in_thread(abort, self._array_connections.put, call, data, abort))

    async def close(self) -> None:
        self._array_connections.close()
        self._direct.close()
        await super().close()


async def _run_in_thread(abort: Abort, work: Callable[..., T], *args: Any) -> T:
    """Run `work` in a thread. Cancelling the task closes the thread's connection, so that the server cancels too."""
    running = asyncio.get_running_loop().run_in_executor(None, partial(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        abort.abort()
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
