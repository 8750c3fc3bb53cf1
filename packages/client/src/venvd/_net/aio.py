"""Connections for asyncio. Each carries one exchange at a time; a pool keeps the idle ones of its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, cast

from venvd._net.bulk import BulkReader, Filler, split_view
from venvd._net.certificates import explain_failure
from venvd._net.deadlines import Deadline, deadline_exceeded, seconds_left
from venvd._net.endpoint import CHUNK, CONNECT_TIMEOUT, Endpoint, Exchange, Reader
from venvd.errors import Unavailable, Unreachable, VenvdError

_MAX_IDLE = 64
_FULL_PAUSE = 0.01
_SHORTEST = 0.01
"""Seconds of the shortest wait for a connection."""
_MAX_OPEN = 100
"""The most connections of one pool. Further tasks wait."""


class Connection(asyncio.Protocol):
    """One connected socket. It feeds the reader of the running exchange, and wakes the task that waits for it."""

    __slots__ = (
        "_endpoint",
        "_failure",
        "_loop",
        "_reader",
        "_streaming",
        "_timer",
        "_transport",
        "_waiter",
        "_writable",
        "fresh",
        "lost",
        "whole",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint = endpoint
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._streaming = False
        self._writable: asyncio.Event | None = None
        self.fresh = True
        self.lost = False
        self.whole = True
        """Whether the client has sent every request to its end."""

    # The event loop calls these.

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
            self.abort()  # bytes came without a request
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
            self._failure = self._explain_end(reader, exc)
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        if self._writable is not None:
            self._writable.clear()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()

    # The pool calls these.

    def send(self, exchange: Exchange, *, streaming: bool) -> None:
        self._reader = exchange.reader
        self._streaming = streaming
        if self._transport is not None:
            self._transport.write(exchange.data)

    async def wait(self, deadline: Deadline | None) -> None:
        """Wait until the reader is done or, if it streams, has something new."""
        if self._failure is not None:
            raise self._failure
        reader = self._reader
        if reader is None or reader.done:
            return
        waiter = self._waiter = self._loop.create_future()
        if deadline is not None:
            self._start_timer(deadline)
        if self._streaming and self._transport is not None:
            self._transport.resume_reading()
        try:
            await waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._failure is not None:
            raise self._failure

    async def send_body(self, body: memoryview, reader: Reader, deadline: Deadline | None) -> None:
        """Send a body, unless an answer comes before its end."""
        self.whole = False
        self._writable = asyncio.Event()
        self._writable.set()
        assert self._transport is not None
        try:
            for piece in split_view(body):
                if self.lost or reader.started:
                    return
                self._transport.write(piece)
                if not self._writable.is_set():
                    await self._wait_for(asyncio.ensure_future(self._writable.wait()), deadline)
        finally:
            self._writable = None
        self.whole = True

    async def fill(self, reader: BulkReader, deadline: Deadline | None) -> None:
        """Read straight into the reader's memory until it is full."""
        if self._failure is not None:
            raise self._failure
        assert self._transport is not None
        filler = Filler(self, reader, self._transport)
        self._transport.resume_reading()
        await self._wait_for(filler.ended, deadline)
        if self._failure is not None:
            raise self._failure

    def finish(self) -> bool:
        """End the exchange, and return whether the connection can carry another one."""
        reader, self._reader = self._reader, None
        if self._streaming and self._transport is not None and not self.lost:
            self._transport.resume_reading()
        self._streaming = False
        self.fresh = False
        return reader is not None and reader.done and reader.reusable and self.whole and not self.lost

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _wait_for(self, event: asyncio.Future[Any], deadline: Deadline | None) -> None:
        """Wait for an event of a transfer, until the deadline."""
        try:
            while not (await asyncio.wait([event], timeout=seconds_left(deadline, self._endpoint)))[0]:
                await self._extend(deadline, event)
        finally:
            event.cancel()

    async def _extend(self, deadline: Deadline | None, event: asyncio.Future[Any]) -> None:
        try:
            await extend_deadline(deadline, self._endpoint, self._loop)
        except VenvdError:
            if not event.done():
                raise

    def _start_timer(self, deadline: Deadline) -> None:
        left = seconds_left(deadline, self._endpoint) or 0
        self._timer = self._loop.call_later(left, self._on_timeout, deadline)

    def _on_timeout(self, deadline: Deadline) -> None:
        self._timer = self._loop.create_task(self._go_on(deadline))

    async def _go_on(self, deadline: Deadline) -> None:
        """Wait on after a deadline if the server lives, else fail. An answer or the end of the wait cancels this."""
        try:
            await extend_deadline(deadline, self._endpoint, self._loop)
            self._start_timer(deadline)
        except VenvdError as error:
            self._failure = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _explain_end(self, reader: Reader, exc: Exception | None) -> Exception | None:
        if not reader.started and not self.fresh:
            return StaleConnectionError()
        if exc is not None or not reader.started:
            reason = f": {exc}" if exc else ""
            ended_early = "" if reader.started else self._endpoint.ended_early
            return Unavailable(
                f"{self._endpoint.url} closed the connection without a whole answer{reason}{ended_early}"
            )
        try:
            reader.eof()
        except VenvdError as error:
            return error
        return None


async def _connect_unix(path: str) -> socket.socket:
    """Return a connected socket. A Unix socket fails while the listener's queue is full, so try again."""
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


async def connect(endpoint: Endpoint, loop: asyncio.AbstractEventLoop, deadline: Deadline | None) -> Connection:
    """Return a connection to `endpoint`.

    Raises:
        Unreachable: nothing answers there.
        Unavailable: the handshake of TLS failed.
        DeadlineExceeded: the deadline has passed.
    """
    wait = CONNECT_TIMEOUT
    if deadline is not None:
        seconds_left(deadline, endpoint)
        wait = min(max(deadline.seconds_to_probe(), _SHORTEST), CONNECT_TIMEOUT)

    def factory() -> Connection:
        return Connection(endpoint, loop)

    try:
        async with asyncio.timeout(wait):
            if endpoint.path is not None:
                return (await loop.create_unix_connection(factory, sock=await _connect_unix(endpoint.path)))[1]
            return (await loop.create_connection(factory, endpoint.host, endpoint.port, ssl=endpoint.tls()))[1]
    except TimeoutError:
        if wait < CONNECT_TIMEOUT:
            raise deadline_exceeded(endpoint) from None
        raise Unreachable(f"nothing answers at {endpoint.url} within {wait:g} s") from None
    except ssl.SSLError as error:
        raise Unavailable(explain_failure(endpoint.url, error)) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"nothing answers at {endpoint.url}: {error}") from None


class _FirstBytes:
    """Reads only the beginning of an answer."""

    started = done = reusable = False

    def feed(self, data: bytes) -> None:  # noqa: ARG002 - any bytes will do
        self.started = self.done = True

    def eof(self) -> None:
        """Do nothing. The connection never calls this, because an answer that has begun is done."""


async def extend_deadline(deadline: Deadline | None, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
    """Extend a deadline that has passed if the server answers a ping.

    Raises:
        DeadlineExceeded: the server is silent, or the deadline was the last.
    """
    if deadline is None or deadline.is_last:
        raise deadline_exceeded(endpoint)
    if not await _shows_life(deadline, endpoint, loop):
        raise deadline_exceeded(endpoint, silent=True)
    deadline.extend()


async def _shows_life(deadline: Deadline, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> bool:
    connection = None
    try:
        async with asyncio.timeout(deadline.seconds_to_probe()):
            # A failure says nothing about the server: this process may have no descriptor left.
            with contextlib.suppress(OSError, UnicodeError, VenvdError):
                connection = await connect(endpoint, loop, None)
                if endpoint.scheme == "https":
                    return True  # a handshake needs both sides, so the server lives
                connection.send(Exchange(endpoint.probe, _FirstBytes()), streaming=False)
                await connection.wait(None)
                return True
            await asyncio.sleep(deadline.seconds_to_probe())
            return False
    except TimeoutError:
        return False
    finally:
        if connection is not None:
            connection.abort()


class StaleConnectionError(Exception):
    """The peer closed a reused connection before it answered."""


class Pool:
    """Connections to one endpoint, for one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: deque[Connection] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = asyncio.Semaphore(_MAX_OPEN)
        self._pid = os.getpid()
        self._closed = False

    async def run(self, exchange: Exchange, deadline: Deadline | None = None) -> None:
        """Send and read until the reader is done. Cancelling closes the connection, so that the server cancels too.

        Raises:
            Unreachable: nothing answers.
            Unavailable: the peer closed the connection.
            DeadlineExceeded: the answer is late.
            BadReply: the answer is not valid.
        """
        async with self._turns:
            connection = await self._send(exchange, deadline, streaming=False)
            self._put_back(connection)

    async def stream(self, exchange: Exchange, deadline: Deadline | None = None) -> AsyncGenerator[None, None]:
        """Do what `run` does, and yield when the reader may have something new. Closing the iterator cancels."""
        async with self._turns:
            connection = await self._send(exchange, deadline, streaming=True)
            try:
                yield
                while not exchange.reader.done:
                    await connection.wait(deadline)
                    yield
            finally:
                self._put_back(connection)

    async def transfer(self, exchange: Exchange, reader: BulkReader, deadline: Deadline | None = None) -> None:
        """Do what `run` does with bodies of any size in both directions. `reader` is the exchange's reader."""
        async with self._turns:
            connection = await self._send(exchange, deadline, streaming=True)
            try:
                while not reader.done:
                    if reader.room:
                        await connection.fill(reader, deadline)
                    else:
                        await connection.wait(deadline)
            except BaseException:
                connection.abort()
                raise
            self._put_back(connection)

    async def close(self) -> None:
        self._closed = True
        self._abort_idle()

    async def _send(self, exchange: Exchange, deadline: Deadline | None, *, streaming: bool) -> Connection:
        while True:
            connection = await self._take(deadline)
            try:
                connection.send(exchange, streaming=streaming)
                if exchange.body is not None:
                    await connection.send_body(exchange.body, exchange.reader, deadline)
                await connection.wait(deadline)
            except StaleConnectionError:
                self._abort_idle()
                if not exchange.repeatable:
                    raise Unavailable(
                        f"{self.endpoint.url} closed the connection without an answer; the call may have run"
                    ) from None
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    async def _take(self, deadline: Deadline | None) -> Connection:
        if self._closed:
            raise Unavailable(f"the client of {self.endpoint.url} was closed")
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._pid != os.getpid():
            self._idle.clear()  # the old connections belong to a loop that has ended, or to the parent process
            self._loop, self._pid = loop, os.getpid()
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        return await connect(self.endpoint, loop, deadline)

    def _put_back(self, connection: Connection) -> None:
        if connection.finish() and not self._closed and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()

    def _abort_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()
