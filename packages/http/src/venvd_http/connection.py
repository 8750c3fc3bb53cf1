"""uvicorn's connections with additions: limits of slow and silent clients, a fast path, and problem details.

Only this module uses private parts of uvicorn (docs/decisions/0015-one-http-edge.md).
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from venvd_contract.errors import InvalidRequest, TooLarge, Unavailable, VenvdError
from venvd_http.admission import count_unread, name_peer
from venvd_http.asgi import Scope, encode
from venvd_http.auth import Key, WrongToken
from venvd_http.edge import Edge
from venvd_http.flow import Flow, UnreadTimer
from venvd_http.heads import Head, HeadCache
from venvd_http.origin import find as find_origin
from venvd_http.problems import render_problem
from venvd_http.proxies import HEADER as FORWARDED_FOR

HEAD_BYTES = 64 * 1024
HEADERS = 256
"""The most header lines of a head that comes in several pieces: a parsed line takes a hundred times its bytes."""
PIPELINED = 8
"""The most parsed requests that wait behind an unanswered one."""
PIECE = 16 * 1024
"""Bytes that the parser gets at once. One read may contain thousands of requests, and a parsed request takes a hundred
times its bytes.
"""
LARGEST_FAST_BODY = 64 * 1024
TRANSPORT, HEAD = "venvd.transport", "venvd.head"
"""ASGI extensions: the transport of a request's connection, and its `Head` if the connection has parsed it."""

_STATUS_LINE = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus} | {
    413: b"413 Content Too Large",  # names of RFC 9110; HTTPStatus has others in older versions of Python
    422: b"422 Unprocessable Content",
}
_JSON = b"content-type: application/json\r\n"
_REFUSAL = b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"


class Exchange(ABC):
    """One request on the fast path, from its last byte to its answer.

    It replaces uvicorn's cycle and has the attributes that uvicorn uses: `response_complete`, `disconnected`,
    `keep_alive` and a `message_event` with `set`.
    """

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")

    def __init__(self, connection: HttpConnection, keep_alive: bool) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> Exchange:
        return self

    def set(self) -> None:  # noqa: B027 — uvicorn reports by it that the client left; the connection calls `client_left`
        """Do nothing."""

    @abstractmethod
    def begin(self, command: str, head: Head, body: bytes) -> None:
        """Begin the call of an admitted request. The exchange then calls `answer` or `refuse` once."""

    @abstractmethod
    def cancel(self) -> None:
        """End the call: its client has left."""

    def client_left(self) -> None:
        self.disconnected = True
        self.cancel()

    def answer(self, body: bytes) -> None:
        """Send 200 and a JSON body."""
        self._connection.answer(self, b"200 OK", _JSON, body)

    async def answer_in_parts(self, length: int, parts: Iterable[bytes]) -> None:
        """Send 200 and a JSON body of `length` bytes part by part, as fast as the client reads."""
        await self._connection.answer_in_parts(self, _JSON, length, parts)

    def refuse(self, error: VenvdError) -> None:
        """Send an error."""
        if self.disconnected:
            self.response_complete = True
            return
        status, headers, body = render_problem(error)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._connection.answer(self, _STATUS_LINE.get(status) or b"%d " % status, lines, body)


@dataclass(frozen=True)
class FastPath:
    """Answers small requests on the connection itself, without a task and without ASGI.

    A request takes this path if it is a POST for one of `routes` that arrives whole, its body has at most
    `LARGEST_FAST_BODY` bytes, it wants no events, and no other request of its connection waits for an answer.

    Attributes:
        routes: commands by the target of their requests.
        admit: raises `VenvdError` if the sender of a request may not call; returns the sender's access key, if any.
        exchange: makes the exchange of one request on a connection; the flag says whether the connection stays open.
    """

    routes: Mapping[bytes, str]
    admit: Callable[[Head], Key | None]
    exchange: Callable[[HttpConnection, bool], Exchange]


class HttpConnection(HttpToolsProtocol):
    """One connection, with limits that uvicorn lacks.

    Until one of its requests is accepted, a connection has the limits of `edge.admission`. The head of a request may
    take `stall_timeout` seconds from its first byte, and have `HEAD_BYTES`. The connection reads and parses only a few
    requests before it has answered the earlier ones. A client may leave answers unread for `stall_timeout` seconds.
    """

    stall_timeout: ClassVar[float] = 60.0
    edge: ClassVar[Edge] = Edge()
    routes: ClassVar[Mapping[bytes, str]] = {}
    fast_path: ClassVar[FastPath]
    """Set if there are `routes`."""
    needs_certificate: ClassVar[bool] = False
    """Whether the fast path is only for clients with a certificate."""

    flow: Flow  # type: ignore[assignment]  # it replaces uvicorn's

    _unparsed = b""
    """Bytes that are read and not parsed yet."""
    _in_head = False
    _in_body = False
    _head_bytes = 0
    _head_began = 0.0
    _fast_command: str | None = None
    """The command of an incomplete request of the fast path; uvicorn does not know the request."""
    _body = b""
    _exchange: Exchange | None = None
    _arrived = b""
    """The bytes that the parser is reading."""
    _began_in = b""
    """The bytes in which the request began."""
    _resting = False
    """Whether the last request took the fast path and is answered, and no byte of the next has arrived."""
    _resting_since = 0.0
    _rendered_defaults: tuple[list[tuple[bytes, bytes]] | None, bytes] = None, b""
    _accepted = False
    _proxy: str | None = None
    """The address of the trusted proxy that the connection comes from."""
    arrived: float | None = None
    """The loop's time at which the connection began, if that is before `connection_made`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(self.transport, self._is_full)
        self._unread = UnreadTimer(self.transport, self.stall_timeout)
        self._heads = HeadCache()
        self._keys: set[Key] = set()
        self._close_in(self.stall_timeout)
        self.peer = name_peer(self.client[0]) if self.client else "unix"
        if self.client and self.edge.proxies.trusts(self.client[0]):
            self._proxy = self.client[0]
        self.edge.admission.enter(self, self.peer, self.arrived)
        if self.needs_certificate and not transport.get_extra_info("peercert"):
            self.routes = {}  # type: ignore[misc]  # the application decides what such a client may ask

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.admission.leave(self, self.peer)
        self._unread.stop()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        for key in self._keys:
            key.unwatch(self.transport.abort)
        if self._exchange is not None:
            self._exchange.client_left()

    def tie(self, key: Key) -> None:
        """End the connection and its calls as soon as `key`, the access key of one of its requests, ends."""
        if key not in self._keys:
            self._keys.add(key)
            key.watch(self.transport.abort)

    # ---- until a request is accepted

    def accept(self, key: Key | None) -> None:
        """Note that a request was admitted, with its access key if it has one."""
        if not self._accepted:
            self._accepted = True
            self.edge.admission.leave(self, self.peer)
        if key is not None:
            self.tie(key)

    def has_unread(self) -> bool:
        """Return whether unread bytes of the client are in the kernel, or a request waits for its answer."""
        running = self.cycle is not None and not self.cycle.response_complete
        return running or count_unread(self.transport.get_extra_info("socket").fileno()) > 0

    def drop(self, reason: str) -> None:
        """Close the connection, with the reason if the client has begun to send."""
        if self._in_head:
            self._refuse(Unavailable(reason))
        else:
            self.transport.abort()

    # ---- reading

    def data_received(self, data: bytes) -> None:
        if self._resting:
            self._resting = False
            request = self._heads.find(data)
            if request is not None:
                exchange = self.cycle = self._exchange = self.fast_path.exchange(self, True)  # type: ignore[assignment]
                exchange.begin(*request)
                return
        self._arrived = data
        self._feed(data)
        self._arrived = self._began_in = b""
        if self._fast_command is not None:
            self._leave_fast_path()

    def _feed(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if self.transport.is_closing():
                return
            if self._is_full():
                self._unparsed += data[start:]
                self.flow.update()
                if not self._accepted and len(self._unparsed) > self.edge.admission.limits.bytes:
                    self.transport.abort()
                return
            self._parse(data[start : start + PIECE])

    def _parse(self, piece: bytes) -> None:
        super().data_received(piece)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._limit_head(len(piece))
        elif self._fast_command is None and not self._resting and (self.cycle is None or self.cycle.response_complete):
            # these bytes stopped uvicorn's timer and begin no request: empty lines, or the rest of a refused body
            if self._in_body:
                self._close_in(self.stall_timeout)
            else:
                self._limit_head(len(piece))

    def _is_full(self) -> bool:
        return bool(self._unparsed) or len(self.pipeline) >= PIPELINED or self.flow.write_paused

    def _read_on(self) -> None:
        unparsed, self._unparsed = self._unparsed, b""
        if unparsed:
            self.data_received(unparsed)
        self.flow.update()

    def _find_client(self, proxy: str) -> None:
        """Set the client of the request from the header that the proxy has added."""
        values = [str(value, "latin-1") for name, value in self.headers if name == FORWARDED_FOR]
        client = self.edge.proxies.find_client(proxy, values)
        self.client = client, 0
        if not self._accepted and (peer := name_peer(client)) != self.peer:
            self.edge.admission.move(self, self.peer, peer)
            self.peer = peer

    def _limit_head(self, size: int) -> None:
        now = time.monotonic()
        if self._head_bytes == 0:
            self._head_began = now
        self._head_bytes += size
        most = HEAD_BYTES if self._accepted else min(HEAD_BYTES, self.edge.admission.limits.bytes)
        if self._head_bytes > most + PIECE:  # the first piece may begin with other requests
            self._refuse(TooLarge(f"the request's head is larger than {most} bytes"))
        elif self.headers is not None and len(self.headers) > HEADERS:
            self._refuse(TooLarge(f"the request has more than {HEADERS} headers"))
        else:
            self._close_in(max(0.0, self._head_began + self.stall_timeout - now))

    def _close_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    # ---- writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.stop()
        self._read_on()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._read_on()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(f"this is not HTTP: {msg}"))

    def _refuse(self, error: VenvdError) -> None:
        body = encode(error.problem())
        self.transport.write(_REFUSAL % (_STATUS_LINE[error.http_status], len(body), body))
        self.transport.close()

    # ---- the parser's callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._began_in = self._arrived
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._head_bytes = 0
        if self._proxy is not None:
            self._find_client(self._proxy)
        command = self.routes.get(self.url)
        if command is not None and self._may_be_fast():
            self._fast_command, self._body = command, b""
        else:
            self._begin_asgi(None)

    def _may_be_fast(self) -> bool:
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        if self._fast_command is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._fast_command is None:
            super().on_message_complete()
            return
        command, keep_alive = self._fast_command, self.parser.should_keep_alive()
        head, key, refusal = Head(), None, None
        try:
            head = Head.of(self.headers, self.client[0] if self.client else "unix")
            if head.wants_events or len(self._body) > LARGEST_FAST_BODY:
                self._leave_fast_path(head)
                super().on_message_complete()
                return
            self.edge.browsers.check(*find_origin(self.headers))
            key = self.fast_path.admit(head)
            self.accept(key)
        except VenvdError as error:
            refusal = error
        self._fast_command = None
        exchange = self.cycle = self._exchange = self.fast_path.exchange(self, keep_alive)  # type: ignore[assignment]
        if refusal is not None:
            if isinstance(refusal, WrongToken):
                self.loop.call_later(refusal.delay, exchange.refuse, refusal)
            else:
                exchange.refuse(refusal)
            return
        expires = key is not None and key.expires_at is not None
        if keep_alive and not head.expects and not expires and self._began_in is self._arrived:
            self._heads.learn(self._arrived, command, head)
        exchange.begin(command, head, self._body)

    def _leave_fast_path(self, head: Head | None = None) -> None:
        """Pass the request to the application: it is incomplete or too large, or asks for events."""
        self._fast_command = None
        self._begin_asgi(head)
        if self._body:
            super().on_body(self._body)

    def _begin_asgi(self, head: Head | None) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        self.scope["extensions"] = {TRANSPORT: self.transport, HEAD: head}  # type: ignore[dict-item]
        super().on_headers_complete()
        if self.pipeline:  # uvicorn has stopped reading, and would not notice that the client disconnects
            self.flow.resume_reading()

    # ---- answers of the fast path

    def answer(self, exchange: Exchange, status: bytes, headers: bytes, body: bytes) -> None:
        """Write one whole response: `status` is code and phrase, `headers` are complete lines."""
        self.transport.write(self._render_start(exchange, status, headers, len(body)) + body)
        self._complete(exchange)

    async def answer_in_parts(self, exchange: Exchange, headers: bytes, length: int, parts: Iterable[bytes]) -> None:
        """Write a response with status 200 part by part. If that fails in the middle, the connection ends."""
        self.transport.write(self._render_start(exchange, b"200 OK", headers, length))
        try:
            for part in parts:
                await self.flow.drain()
                if self.transport.is_closing():
                    return
                self.transport.write(part)
        except BaseException:
            self.transport.abort()
            raise
        self._complete(exchange)

    def _render_start(self, exchange: Exchange, status: bytes, headers: bytes, length: int) -> bytes:
        if not exchange.keep_alive:
            headers += b"connection: close\r\n"
        rendered, defaults = HttpConnection._rendered_defaults
        current = self.server_state.default_headers  # uvicorn makes a new list each second
        if rendered is not current:
            defaults = b"".join(b"%b: %b\r\n" % header for header in current)
            HttpConnection._rendered_defaults = current, defaults
        return b"HTTP/1.1 %b\r\n%b%bcontent-length: %d\r\n\r\n" % (status, headers, defaults, length)

    def _complete(self, exchange: Exchange) -> None:
        """Finish a written response."""
        exchange.response_complete = True
        self._exchange = None
        if not exchange.keep_alive:
            self.transport.close()
        elif self.cycle is exchange and not self._in_head and self._fast_command is None:  # type: ignore[comparison-overlap]
            self._rest()
            return
        self.on_response_complete()

    def _rest(self) -> None:
        """Wait for the next request, like `on_response_complete`, but without a timer for each response."""
        self.server_state.total_requests += 1
        self._resting = True
        self._resting_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._end_rest)

    def _end_rest(self) -> None:
        self.timeout_keep_alive_task = None
        if self._exchange is not None:
            return
        remaining = self._resting_since + self.timeout_keep_alive - self.loop.time()
        if remaining > 0:
            self.timeout_keep_alive_task = self.loop.call_later(remaining, self._end_rest)
        else:
            self.timeout_keep_alive_handler()


def accept(scope: Scope, key: Key | None = None) -> None:
    """Tell the connection of a request that the request was admitted; see `HttpConnection.accept`."""
    transport = (scope.get("extensions") or {}).get(TRANSPORT)
    connection = None if transport is None else transport.get_protocol()
    if isinstance(connection, HttpConnection):
        connection.accept(key)


def create_connection_type(
    edge: Edge, stall_timeout: float, fast_path: FastPath | None = None, *, needs_certificate: bool = False
) -> type[HttpConnection]:
    """Create the class of a server's connections."""
    limits = {"edge": edge, "stall_timeout": stall_timeout, "needs_certificate": needs_certificate}
    fast = {} if fast_path is None else {"fast_path": fast_path, "routes": fast_path.routes}
    return type("HttpConnection", (HttpConnection,), {**limits, **fast})
