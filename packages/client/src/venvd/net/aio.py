"""Connections for asyncio: each carries one exchange at a time, a pool keeps the idle ones of its event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

from venvd.errors import Unavailable, Unreachable, VenvdError
from venvd.net.bulk import BulkReader, Filler, pieces
from venvd.net.endpoint import CHUNK, CONNECT_TIMEOUT, Endpoint, Exchange, Reader, remaining, too_late

_MAX_IDLE = 64
_FULL_PAUSE = 0.01
_MAX_OPEN = 100
"""Connections of one pool; more tasks than that take turns."""


class Connection(asyncio.Protocol):
    """One connected socket: feeds the reader of the exchange that runs, and wakes whoever waits for it."""

    __slots__ = (
        "_endpoint", "_failure", "_loop", "_reader", "_room", "_streaming", "_transport", "_waiter", "fresh", "lost",
        "whole",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint = endpoint
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._streaming = False
        self._room: asyncio.Event | None = None
        self.fresh = True
        self.lost = False
        self.whole = True
        """Whether every request was sent to its end."""

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if hasattr(transport, "max_size"):
            transport.max_size = CHUNK
        made = transport.get_extra_info("socket")
        if made is not None and made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None or reader.done:
            self.abort()  # bytes that nobody asked for
            return
        try:
            reader.feed(data)
        except VenvdError as error:
            self._failure = error
            self.abort()
        if reader.done or self._streaming or self._failure:
            self._wake()
        if self._streaming and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        reader = self._reader
        if reader is not None and not reader.done and self._failure is None:
            self._failure = self._ended(reader, exc)
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        if self._room is not None:
            self._room.clear()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set()

    # what the pool calls

    def send(self, exchange: Exchange, *, streaming: bool) -> None:
        self._reader = exchange.reader
        self._streaming = streaming
        if self._transport is not None:
            self._transport.write(exchange.data)

    async def wait(self, deadline: float | None) -> None:
        """Until the reader is done or, where it streams, has something new."""
        if self._failure is not None:
            raise self._failure
        reader = self._reader
        if reader is None or reader.done:
            return
        waiter = self._waiter = self._loop.create_future()
        timer = None
        if deadline is not None:
            timer = self._loop.call_later(remaining(deadline, self._endpoint) or 0, self._late)
        if self._streaming and self._transport is not None:
            self._transport.resume_reading()
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if self._failure is not None:
            raise self._failure

    async def send_body(self, body: memoryview, reader: Reader, deadline: float | None) -> None:
        """Send a body until it is sent, or answered before that."""
        self.whole = False
        self._room = asyncio.Event()
        self._room.set()
        assert self._transport is not None
        try:
            async with asyncio.timeout(remaining(deadline, self._endpoint)):
                for piece in pieces(body):
                    if self.lost or reader.started:
                        return
                    self._transport.write(piece)
                    await self._room.wait()
        except TimeoutError:
            raise too_late(self._endpoint) from None
        finally:
            self._room = None
        self.whole = True

    async def fill(self, reader: BulkReader, deadline: float | None) -> None:
        """Until the reader's room is full, read straight into it."""
        if self._failure is not None:
            raise self._failure
        assert self._transport is not None
        filler = Filler(self, reader, self._transport)
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(remaining(deadline, self._endpoint)):
                await filler.ended
        except TimeoutError:
            raise too_late(self._endpoint) from None
        if self._failure is not None:
            raise self._failure

    def finish(self) -> bool:
        """End the exchange; whether the connection can carry another."""
        reader, self._reader = self._reader, None
        if self._streaming and self._transport is not None and not self.lost:
            self._transport.resume_reading()
        self._streaming = False
        self.fresh = False
        return reader is not None and reader.done and reader.reusable and self.whole and not self.lost

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _late(self) -> None:
        self._failure = too_late(self._endpoint)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ended(self, reader: Reader, exc: Exception | None) -> Exception | None:
        if not reader.started and not self.fresh:
            return GoneError()
        if exc is not None or not reader.started:
            reason = f": {exc}" if exc else ""
            return Unavailable(f"{self._endpoint.url} closed the connection without a whole answer{reason}")
        try:
            reader.eof()
        except VenvdError as error:
            return error
        return None


async def _unix_socket(path: str) -> socket.socket:
    """A connected socket. Where the listener's queue is full, a Unix socket says so at once in place of waiting."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    try:
        while True:
            try:
                made.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_FULL_PAUSE)
            else:
                return made
    except BaseException:
        made.close()
        raise


async def connected(endpoint: Endpoint, loop: asyncio.AbstractEventLoop, deadline: float | None) -> Connection:
    """A connection to `endpoint`.

    Raises:
        Unreachable, DeadlineExceeded: nothing answers there, or not in time.
    """
    left = remaining(deadline, endpoint)
    wait = CONNECT_TIMEOUT if left is None else min(left, CONNECT_TIMEOUT)

    def factory() -> Connection:
        return Connection(endpoint, loop)

    try:
        async with asyncio.timeout(wait):
            if endpoint.path is not None:
                return (await loop.create_unix_connection(factory, sock=await _unix_socket(endpoint.path)))[1]
            return (await loop.create_connection(factory, endpoint.host, endpoint.port, ssl=endpoint.tls()))[1]
    except TimeoutError:
        remaining(deadline, endpoint)
        raise Unreachable(f"nothing answers at {endpoint.url} within {wait:g} s") from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"nothing answers at {endpoint.url}: {error}") from None


class GoneError(Exception):
    """The peer closed a connection that had been idle before it answered anything."""


class Pool:
    """Connections to one endpoint, for one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: deque[Connection] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(_MAX_OPEN)
        self._pid = os.getpid()
        self._closed = False

    async def run(self, exchange: Exchange, deadline: float | None = None) -> None:
        """Send and read until the reader is done; cancelling it closes the connection, so that the server cancels too.

        Raises:
            Unreachable, Unavailable, DeadlineExceeded, BadReply: closed, cut or late.
        """
        async with self._turns:
            connection = await self._begun(exchange, deadline, streaming=False)
            self._put(connection)

    async def stream(self, exchange: Exchange, deadline: float | None = None) -> AsyncIterator[None]:
        """The same, yielding whenever the reader may have something new; closing the iterator cancels."""
        async with self._turns:
            connection = await self._begun(exchange, deadline, streaming=True)
            try:
                yield
                while not exchange.reader.done:
                    await connection.wait(deadline)
                    yield
            finally:
                self._put(connection)

    async def transfer(self, exchange: Exchange, reader: BulkReader, deadline: float | None = None) -> None:
        """As `run`, with a body of any size each way; `reader` is the exchange's own."""
        async with self._turns:
            connection = await self._begun(exchange, deadline, streaming=True)
            try:
                while not reader.done:
                    if reader.room:
                        await connection.fill(reader, deadline)
                    else:
                        await connection.wait(deadline)
            except BaseException:
                connection.abort()
                raise
            self._put(connection)

    async def close(self) -> None:
        self._closed = True
        self._drop()

    async def _begun(self, exchange: Exchange, deadline: float | None, *, streaming: bool) -> Connection:
        while True:
            connection = await self._take(deadline)
            try:
                connection.send(exchange, streaming=streaming)
                if exchange.body is not None:
                    await connection.send_body(exchange.body, exchange.reader, deadline)
                await connection.wait(deadline)
            except GoneError:
                self._drop()
                if not exchange.repeatable:
                    raise Unavailable(
                        f"{self.endpoint.url} closed the connection without an answer; the call may have run"
                    ) from None
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    async def _take(self, deadline: float | None) -> Connection:
        if self._closed:
            raise Unavailable(f"the client of {self.endpoint.url} was closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._pid != os.getpid():
            self._idle.clear()  # connections of a loop that has ended, or of the parent process
            self._loop, self._pid = loop, os.getpid()
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        return await connected(self.endpoint, loop, deadline)

    def _put(self, connection: Connection) -> None:
        if connection.finish() and not self._closed and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()

    def _drop(self) -> None:
        while self._idle:
            self._idle.pop().abort()
