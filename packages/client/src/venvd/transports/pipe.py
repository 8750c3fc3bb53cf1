"""Calls over a Unix socket: CONTRACT, "Pipe"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from functools import partial
from typing import Any, TypeVar

from venvd.errors import BadReply, InvalidRequest, decoded
from venvd.net.endpoint import Endpoint, Exchange
from venvd.net.lines import LineReader
from venvd.transports import attached
from venvd.transports.base import Call, Event, Run
from venvd.transports.carriers import Abort, Carriers
from venvd.transports.direct import Attached
from venvd.transports.direct_async import AsyncAttached
from venvd.transports.wired import AsyncWiredTransport, WiredTransport
from venvd_contract.arrays import Header
from venvd_contract.framing import dump_line

T = TypeVar("T")


class PipeReply(LineReader):
    """The reply to a call, and the events before it."""

    __slots__ = ()

    def events(self) -> list[Event]:
        found = []
        while self.events_seen:
            message = self.events_seen.popleft()
            found.append(Event(str(message["event"]), message.get("data")))
        return found

    def result(self) -> Any:
        if "error" in self.reply:
            raise decoded(self.reply)
        if "result" not in self.reply:
            raise BadReply('the reply has neither "result" nor "error"')
        result = self.reply["result"]
        return {**result, "attached": b"".join(self.attachments)} if "attachments" in self.reply else result

    def received(self) -> int:
        return self.size


class PipeWire:
    """Writes calls as lines."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self.endpoint = endpoint
        self.token = token

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, PipeReply]:
        message: dict[str, Any] = {"id": 1, "command": call.command, "payload": call.payload, "values": "tagged"}
        if call.session is not None:
            message["session"] = call.session
        if call.lease is not None:
            message["lease"] = call.lease
        if call.timeout is not None:
            message["timeout"] = call.timeout
        if self.token:
            message["token"] = self.token
        if stream:
            message["stream"] = True
        if call.body is not None:
            message["attachments"] = [len(call.body)]
        try:
            data = dump_line(message)
        except ValueError as error:
            raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None
        reader = PipeReply()
        return Exchange(data + call.body if call.body else data, reader, call.repeatable), reader


class PipeTransport:
    """Calls as lines, to their session directly where the backend offers that; arrays on connections of their own."""

    def __init__(self, wire: PipeWire) -> None:
        self.url = wire.endpoint.url
        self._server = WiredTransport(wire)
        self._carriers = Carriers(wire.endpoint, wire.token)
        self._attached = Attached(wire.endpoint, wire.token, self._server.call)
        self.call: Run = self._attached.call

    def stream(self, call: Call[Any]) -> Iterator[Event]:
        reader = PipeReply()
        arrivals = self._attached.stream(call, reader)
        if arrivals is None:
            yield from self._server.stream(call)
            return
        with closing(arrivals):  # type: ignore[type-var]
            for _ in arrivals:
                yield from reader.events()
        yield Event("result", call.finish(reader.result()))

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return self._carriers.get(call)

    def put_array(self, call: Call[T], data: memoryview) -> T:
        return call.finish(self._carriers.put(call, data))

    def close(self) -> None:
        self._carriers.close()
        self._attached.close()
        self._server.close()


class AsyncPipeTransport(AsyncWiredTransport):
    """The same for asyncio; arrays are copied in threads, so that the loop goes on meanwhile."""

    def __init__(self, wire: PipeWire) -> None:
        super().__init__(wire)
        self._carriers = Carriers(wire.endpoint, wire.token)
        self._attached = AsyncAttached(wire.endpoint, wire.token)

    async def call(self, call: Call[T]) -> T:
        reply = await self._attached.call(call)
        if reply is not None:
            return call.finish(attached.result(reply))
        if not attached.ends_state(call):
            return await super().call(call)
        self._attached.forget(call.payload["id"])
        try:
            return await super().call(call)
        finally:
            self._attached.forget(call.payload["id"])

    async def stream(self, call: Call[Any]) -> AsyncIterator[Event]:
        reader = PipeReply()
        arrivals = await self._attached.stream(call, reader)
        if arrivals is None:
            async for event in super().stream(call):
                yield event
            return
        async with aclosing(arrivals):  # type: ignore[type-var]
            async for _ in arrivals:
                for event in reader.events():
                    yield event
        yield Event("result", call.finish(reader.result()))

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        abort = Abort()
        return await _aside(abort, self._carriers.get, call, abort)

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        abort = Abort()
        return call.finish(await _aside(abort, self._carriers.put, call, data, abort))

    async def close(self) -> None:
        self._carriers.close()
        self._attached.close()
        await super().close()


async def _aside(abort: Abort, work: Callable[..., T], *args: Any) -> T:
    """Run `work` in a thread; cancelling this closes its connection, so that the server cancels too."""
    running = asyncio.get_running_loop().run_in_executor(None, partial(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        abort.give_up()
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
