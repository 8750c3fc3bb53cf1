"""Direct connections for asyncio: each carries one call at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from venvd.errors import Unavailable, Unreachable
from venvd.net import aio
from venvd.net.aio import Connection, GoneError
from venvd.net.endpoint import Endpoint, Exchange, deadline_after
from venvd.net.lines import LineReader
from venvd.transports import attached
from venvd.transports.attached import Line, Lines
from venvd.transports.base import Call


class _Closing:
    """A connection as `Line` closes one."""

    __slots__ = ("connection", "process")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.process: Any = None

    def close(self) -> None:
        self.connection.abort()


class AsyncAttached(Lines[_Closing]):
    """The direct connections of one client, for one event loop."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        super().__init__(token)
        self._endpoint = endpoint
        self._at: tuple[int, asyncio.AbstractEventLoop | None] = (os.getpid(), None)

    async def call(self, call: Call[Any]) -> dict[str, Any] | None:
        """The session's reply; None where the server is to be asked.

        Raises:
            SessionLost: the process is gone, or was since the last call.
        """
        reader = LineReader()
        arrivals = await self.stream(call, reader, streaming=False)
        if arrivals is None:
            return None
        try:
            async for _ in arrivals:
                pass
        except attached.RepeatError:
            return None
        if attached.turns_away(reader.reply):
            return None
        call.received = reader.size
        return reader.reply

    async def stream(
        self, call: Call[Any], reader: LineReader, *, streaming: bool = True
    ) -> AsyncIterator[None] | None:
        """The same, feeding `reader` and yielding whenever it may have something new; closing it cancels the call."""
        loop = asyncio.get_running_loop()
        if self._at != (os.getpid(), loop):
            self._at = (os.getpid(), loop)
            self._lines = {}  # connections of a loop that has ended, or of the parent process
        line = self.of(call)
        if line is None:
            return None
        deadline = deadline_after(call.patience)
        connection = await self._taken(line, call, loop, deadline)
        if connection is None:
            return None
        exchange = Exchange(attached.request(call, stream=streaming), reader)
        return self._stream(line, connection, call, exchange, deadline, streaming=streaming)

    async def _stream(
        self,
        line: Line[_Closing],
        closing: _Closing,
        call: Call[Any],
        exchange: Exchange,
        deadline: float | None,
        *,
        streaming: bool,
    ) -> AsyncIterator[None]:
        connection, reader = closing.connection, exchange.reader
        try:
            connection.send(exchange, streaming=streaming)
            while not reader.done:
                await connection.wait(deadline)
                yield
        except (GoneError, Unavailable):
            line.give_up(closing)
            line.ended(closing, told=not call.repeatable)
            raise (attached.RepeatError() if call.repeatable else attached.cut(call)) from None
        except BaseException:
            line.give_up(closing)
            raise
        self._put(line, closing, exchange)

    def _put(self, line: Line[_Closing], closing: _Closing, exchange: Exchange) -> None:
        reusable = closing.connection.finish()
        reply = exchange.reader.reply if isinstance(exchange.reader, LineReader) else {}
        if self.turned_away(line, reply):
            line.give_up(closing)
        elif reply.get("stateLost"):
            line.give_up(closing)
            line.ended(closing, told=True)
        elif self.closed or not reusable:
            line.give_up(closing)
        else:
            line.idle.append(closing)

    async def _taken(
        self, line: Line[_Closing], call: Call[Any], loop: asyncio.AbstractEventLoop, deadline: float | None
    ) -> _Closing | None:
        if line.idle:
            closing = line.idle.pop()
            if not closing.connection.lost:
                return closing
            line.give_up(closing)
            line.ended(closing, told=not call.repeatable)
            if call.repeatable:
                return None
            raise attached.lost(call)
        return await self._made(line, call, loop, deadline) if self.may_have(line) else None

    async def _made(
        self, line: Line[_Closing], call: Call[Any], loop: asyncio.AbstractEventLoop, deadline: float | None
    ) -> _Closing | None:
        closing = None
        reader = LineReader()
        try:
            connection = await aio.connected(self._endpoint, loop, deadline)
            closing = _Closing(connection)
            connection.send(Exchange(self.greeting(call), reader), streaming=False)
            await connection.wait(deadline)
            closing.process = attached.process_of(reader.reply)
            refused = self.refused(line, reader.reply) or not connection.finish()
        except Unreachable:
            line.give_up(closing)
            raise
        except (GoneError, Unavailable):
            refused = True
        except BaseException:
            line.give_up(closing)
            raise
        if refused:
            line.give_up(closing)
            return None
        return closing
