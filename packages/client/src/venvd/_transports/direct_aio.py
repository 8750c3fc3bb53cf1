"""Direct connections for asyncio: each carries one call at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

from venvd._net import aio
from venvd._net.aio import Connection, StaleConnectionError
from venvd._net.deadlines import Deadline, answer_deadline
from venvd._net.endpoint import Endpoint, Exchange
from venvd._net.lines import LineReader
from venvd._transports import direct
from venvd._transports.base import Call
from venvd._transports.direct import DirectPool, DirectPools
from venvd.errors import Unavailable, Unreachable


class _DirectConnection:
    """A connection and the process that answers it, with the interface that `DirectPool` needs."""

    __slots__ = ("connection", "process")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.process: Any = None

    def close(self) -> None:
        self.connection.abort()


class AsyncDirectCalls(DirectPools[_DirectConnection]):
    """Carries calls over direct connections, for one event loop."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        super().__init__(token)
        self._endpoint = endpoint
        self._owner: tuple[int, asyncio.AbstractEventLoop | None] = (os.getpid(), None)

    async def call(self, call: Call[Any]) -> dict[str, Any] | None:
        """Return the session's reply, or None if the call must go through the server.

        Raises:
            SessionLost: the process ended now or since the last call.
        """
        reader = LineReader()
        arrivals = await self.stream(call, reader, streaming=False)
        if arrivals is None:
            return None
        try:
            async for _ in arrivals:
                pass
        except direct.RepeatError:
            return None
        if direct.is_unstarted(reader.reply):
            return None
        call.received = reader.size
        return reader.reply

    async def stream(
        self, call: Call[Any], reader: LineReader, *, streaming: bool = True
    ) -> AsyncGenerator[None, None] | None:
        """Feed `reader` and yield when it may have something new. Return None if the call must go through the server.

        Closing the iterator cancels the call.
        """
        loop = asyncio.get_running_loop()
        if self._owner != (os.getpid(), loop):
            self._owner = (os.getpid(), loop)
            self._pools = {}  # the old connections belong to a loop that has ended, or to the parent process
        pool = self.find_pool(call)
        if pool is None:
            return None
        deadline = answer_deadline(call.timeout)
        connection = await self._take(pool, call, loop, deadline)
        if connection is None:
            return None
        try:
            exchange = Exchange(direct.encode_call(call, stream=streaming), reader)
        except BaseException:
            pool.idle.append(connection)
            raise
        return self._stream(pool, connection, call, exchange, deadline, streaming=streaming)

    async def _stream(
        self,
        pool: DirectPool[_DirectConnection],
        taken: _DirectConnection,
        call: Call[Any],
        exchange: Exchange,
        deadline: Deadline | None,
        *,
        streaming: bool,
    ) -> AsyncGenerator[None, None]:
        connection, reader = taken.connection, exchange.reader
        try:
            connection.send(exchange, streaming=streaming)
            while not reader.done:
                await connection.wait(deadline)
                yield
        except (StaleConnectionError, Unavailable):
            pool.discard(taken)
            pool.note_end(taken, reported=not call.repeatable)
            raise (direct.RepeatError() if call.repeatable else direct.make_cut_error(call)) from None
        except BaseException:
            pool.discard(taken)
            raise
        self._put_back(pool, taken, exchange)

    def _put_back(self, pool: DirectPool[_DirectConnection], taken: _DirectConnection, exchange: Exchange) -> None:
        reusable = taken.connection.finish()
        reply = exchange.reader.reply if isinstance(exchange.reader, LineReader) else {}
        if self.is_late_refusal(pool, reply):
            pool.discard(taken)
        elif reply.get("stateLost"):
            pool.discard(taken)
            pool.note_end(taken, reported=True)
        elif self.closed or not reusable:
            pool.discard(taken)
        else:
            pool.idle.append(taken)

    async def _take(
        self,
        pool: DirectPool[_DirectConnection],
        call: Call[Any],
        loop: asyncio.AbstractEventLoop,
        deadline: Deadline | None,
    ) -> _DirectConnection | None:
        if pool.idle:
            taken = pool.idle.pop()
            if not taken.connection.lost:
                return taken
            pool.discard(taken)
            pool.note_end(taken, reported=not call.repeatable)
            if call.repeatable:
                return None
            raise direct.make_lost_error(call)
        return await self._connect(pool, call, loop, deadline) if self.may_connect(pool) else None

    async def _connect(
        self,
        pool: DirectPool[_DirectConnection],
        call: Call[Any],
        loop: asyncio.AbstractEventLoop,
        deadline: Deadline | None,
    ) -> _DirectConnection | None:
        made = None
        reader = LineReader()
        try:
            connection = await aio.connect(self._endpoint, loop, deadline)
            made = _DirectConnection(connection)
            connection.send(Exchange(self.make_greeting(call), reader), streaming=False)
            await connection.wait(deadline)
            made.process = direct.identify_process(reader.reply)
            refused = self.is_refusal(pool, reader.reply) or not connection.finish()
        except Unreachable:
            pool.discard(made)
            raise
        except (StaleConnectionError, Unavailable):
            refused = True
        except BaseException:
            pool.discard(made)
            raise
        if refused:
            pool.discard(made)
            return None
        return made
