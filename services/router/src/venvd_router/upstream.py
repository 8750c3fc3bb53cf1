"""HTTP connections to replicas. The router keeps them for the next request of the same access key.

A library would take longer than the call. Here each request is one write, and the parser is that of the server.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter, deque
from typing import cast

import httptools

from venvd_contract.errors import Unavailable
from venvd_http.asgi import Headers
from venvd_http.auth import Key
from venvd_router.certificates import create_context
from venvd_router.replicas import Address

IDLE_SECONDS = 60.0
"""How long a connection is kept without a request: half as long as servers keep it, so none ends one in use."""
MOST_UNREAD = 256 << 10
"""If so many bytes of an answer wait for the client, the router stops reading from the replica."""
_SILENT_SECONDS = 60
"""Seconds after which the kernel asks a silent peer whether it is there."""


class Broken(Unavailable):
    """A replica does not answer.

    Attributes:
        sent: whether a part of the request was sent, so that the replica may have begun the call.
    """

    def __init__(self, address: Address, reason: str, *, sent: bool) -> None:
        super().__init__(
            f"replica {address.number} does not answer at {address.authority}: {reason}"
            + ("; the call may have begun" if sent else "")
        )
        self.sent = sent


class UpstreamConnection(asyncio.Protocol):
    """A connection to a replica. It has one request at a time.

    Attributes:
        head: done when the head of the answer is there; fails with `Broken`.
        status: the status of the answer.
        headers: the headers of the answer.
        complete: whether the whole answer has come.
        idle_since: the loop's time at the end of the last request.
        in_use: whether it has a request.
    """

    def __init__(self, address: Address) -> None:
        self.in_use = True
        self.address = address
        self.head: asyncio.Future[None]
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = True
        self.idle_since = 0.0
        self.lost = False
        self._without_body = False
        self._keeps_alive = False
        self._is_spoilt = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._came = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Broken | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        own = transport.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_SECONDS)

    # ---- the request

    def begin(self, data: bytes, *, without_body: bool) -> asyncio.Future[None]:
        """Send the head of a request with the part of its body that has come; return `head`.

        `without_body` says that the answer has no body, such as the answer to a HEAD.
        """
        self.status, self.headers, self.complete, self._error = 0, [], False, None
        self._without_body = without_body
        self._parser = httptools.HttpResponseParser(self)
        self.head = self._loop.create_future()
        if self.lost:
            self._fail("the connection is closed")
        else:
            self._transport.write(data)
        return self.head

    async def write(self, data: bytes) -> None:
        """Send another part of the request, at the pace of the replica."""
        await self._writable.wait()
        if not self.lost:
            self._transport.write(data)

    def abort(self) -> None:
        """Close the connection. This ends the request."""
        self.lost = True
        self._transport.abort()

    def spoil(self) -> None:
        """Note that the request is not sent whole, so no other request can follow it."""
        self._is_spoilt = True

    @property
    def may_be_kept(self) -> bool:
        return self.complete and self._keeps_alive and not (self.lost or self._without_body or self._is_spoilt)

    # ---- the answer

    def take(self) -> bytes:
        """Take the part of the body that has come."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._size >= MOST_UNREAD and not self.lost:
            self._transport.resume_reading()
        self._size = 0
        return data

    async def read(self) -> bytes:
        """Wait for the next part of the body. Return empty bytes at its end.

        Raises:
            Broken: the replica did not send all of it.
        """
        while not self._pieces:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            self._came.clear()
            await self._came.wait()
        return self.take()

    async def read_all(self) -> bytes:
        """Wait for the whole body.

        Raises:
            Broken: the replica did not send all of it.
        """
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    # ---- what the loop calls

    def data_received(self, data: bytes) -> None:
        if self.complete:
            self.abort()  # there is no request to answer
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                self._fail(f"its answer is not HTTP: {error}")
                self.abort()
        if self.status and not self.head.done():
            self.head.set_result(None)
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._writable.set()
        if not self.complete:
            self._fail("it closed the connection" if exc is None else str(exc))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _fail(self, reason: str) -> None:
        self._error = self._error or Broken(self.address, reason, sent=True)
        if not self.head.done():
            self.head.set_exception(self._error)
        self._came.set()

    # ---- what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.headers = []
            return
        self.status = status
        if self._without_body:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        before, self._size = self._size, self._size + len(data)
        if before < MOST_UNREAD <= self._size:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            self._keeps_alive = self._parser.should_keep_alive()


_Place = tuple[Address, bytes]


class Upstream:
    """The connections to all replicas.

    A server closes the connections of an access key that has ended, so the router keeps each connection for one key.

    Args:
        connect_timeout: seconds for a new connection.

    Attributes:
        in_use: how many connections have a request, by the number of their replica.
    """

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._idle: dict[_Place, list[UpstreamConnection]] = {}
        self.in_use: Counter[int] = Counter()
        self._sweeping: asyncio.TimerHandle | None = None

    def count_idle(self) -> Counter[int]:
        """Count the kept connections by the number of their replica."""
        counts: Counter[int] = Counter()
        for (address, _), connections in self._idle.items():
            counts[address.number] += len(connections)
        return counts

    async def acquire(self, address: Address, key: Key | None) -> UpstreamConnection:
        """Take a kept connection, or make one.

        Raises:
            Broken: the replica does not answer.
        """
        connection = self.take_kept(address, key)
        if connection is not None:
            return connection
        self.in_use[address.number] += 1
        try:
            return await self._connect(address)
        except BaseException:
            self.in_use[address.number] -= 1
            raise

    def take_kept(self, address: Address, key: Key | None) -> UpstreamConnection | None:
        """Take a kept connection. Return None if there is none."""
        kept = self._idle.get((address, b"" if key is None else key.sha256))
        while kept:
            connection = kept.pop()
            if not connection.lost:
                connection.in_use = True
                self.in_use[address.number] += 1
                return connection
        return None

    async def _connect(self, address: Address) -> UpstreamConnection:
        context = create_context(address.certificate) if address.secure else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: UpstreamConnection(address), address.host, address.port, ssl=context
                )
        except TimeoutError:
            reason = f"no connection came about within {self._connect_timeout:g} s"
            raise Broken(address, reason, sent=False) from None
        except ssl.SSLError as error:
            raise Broken(address, f"TLS with it failed: {error.reason or error}", sent=False) from None
        except OSError as error:
            raise Broken(address, error.strerror or str(error), sent=False) from None
        return connection

    def release(self, connection: UpstreamConnection, key: Key | None) -> None:
        """Keep the connection if its answer is complete, else close it."""
        connection.in_use = False
        self.in_use[connection.address.number] -= 1
        if not connection.may_be_kept:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault((connection.address, b"" if key is None else key.sha256), []).append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(IDLE_SECONDS / 2, self._sweep)

    def _sweep(self) -> None:
        """Close connections that were not used for long."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_SECONDS
        for place, connections in list(self._idle.items()):
            for connection in connections:
                if connection.idle_since < oldest and not connection.lost:
                    connection.abort()
            connections[:] = [each for each in connections if not each.lost]
            if not connections:
                del self._idle[place]
        self._sweeping = loop.call_later(IDLE_SECONDS / 2, self._sweep) if self._idle else None

    def close(self) -> None:
        """Close the kept connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()


_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_REPLACED = frozenset({b"host", b"content-length", b"expect", b"origin", b"x-forwarded-for"})
"""Headers that are different in the router's own request. The router has checked the origin."""


def render_head(method: str, target: bytes, headers: Headers | list[tuple[bytes, bytes]], peer: str) -> bytes:
    """Render the head of the router's own request, without host, length and the empty line."""
    forwarded = b", ".join([value for name, value in headers if name == b"x-forwarded-for"] + [peer.encode("latin-1")])
    dropped = _list_dropped(headers) | _REPLACED
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    return b"%b %b HTTP/1.1\r\n%bx-forwarded-for: %b\r\n" % (method.encode(), target, b"".join(lines), forwarded)


def keep_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return those headers of an answer that are for the client."""
    dropped = _list_dropped(headers)
    return [header for header in headers if header[0] not in dropped]


def _list_dropped(headers: Headers | list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")} - {
        b"close",
        b"keep-alive",
        b"",
    }
    return _HOP_BY_HOP | named if named else _HOP_BY_HOP
