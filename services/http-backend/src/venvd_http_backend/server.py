"""uvicorn, with what it lacks: a short way for hot calls, bounds on a request's head, problem details for what is no
HTTP, and a clean end.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from venvd_contract.errors import InvalidRequest, TooLarge, VenvdError
from venvd_core.backend import Backend
from venvd_core.patience import HEAD_BYTES, PIECE, Paced
from venvd_core.wire import encode
from venvd_http_backend.arrays import Arrays
from venvd_http_backend.commands import Commands
from venvd_http_backend.front import HOT, Front
from venvd_http_backend.hot import LARGEST, Exchange, Heads
from venvd_http_backend.incoming import Head
from venvd_http_backend.settings import HttpSettings
from venvd_http_backend.transfer import TRANSPORT

KEEP_ALIVE = 120

_HOT = {path.encode(): command for path, command in HOT.items()}
_REFUSAL = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)
_REASONS = {400: b"Bad Request", 413: b"Content Too Large"}


class Connection(Paced, HttpToolsProtocol):  # type: ignore[misc]  # whose `flow` is another that does the same
    """One connection. A head may have `HEAD_BYTES`, and take `stall_timeout` seconds from its first byte."""

    commands: ClassVar[Commands]

    _in_head = False
    _head = 0
    _since = 0.0
    _hot: str | None = None
    """The command of a hot request that is not whole yet; uvicorn has not been told of it."""
    _body = b""
    _exchange: Exchange | None = None
    _arrived = b""
    """What the parser is reading."""
    _began_in = b""
    """In which of these the request began."""
    _at_rest = False
    """Whether the last request was hot and is answered, and nothing of another has come."""
    _rested = 0.0
    """Since when, by the loop's clock."""
    _defaults: tuple[list[tuple[bytes, bytes]] | None, bytes] = None, b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._heads = Heads()
        self._close_in(KEEP_ALIVE)

    def data_received(self, data: bytes) -> None:
        if self._at_rest:
            known = self._heads.known(data)
            if known is not None:
                self._at_rest = False
                self._begin(*known, keep_alive=True)
                return
        self._arrived = data
        super().data_received(data)
        self._arrived = self._began_in = b""
        if self._hot is not None:
            self._usual_way()

    def _parse(self, piece: bytes) -> None:
        super()._parse(piece)
        if self._in_head and not self.transport.is_closing():
            self._partial(len(piece))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.gone()

    # ---- the parser's callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._at_rest = False
        self._began_in = self._arrived
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head = 0
        command = _HOT.get(self.url)
        if command is not None and self._may_be_hot():
            self._hot, self._body = command, b""
        else:
            self._usual_head()

    def _may_be_hot(self) -> bool:
        busy = self.cycle is not None and not self.cycle.response_complete
        parser = self.parser
        return not busy and parser.get_method() == b"POST" and not self.expect_100_continue and not self._ends()

    def _ends(self) -> bool:
        return bool(self.parser.get_http_version() != "1.1" or self.parser.should_upgrade())

    def on_body(self, body: bytes) -> None:
        if self._hot is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        command = self._hot
        if command is None:
            super().on_message_complete()
            return
        head = Head()
        try:
            head = Head.of(self.headers)
        except VenvdError:
            head.wants_events = True  # the usual way refuses it again, and in full
        if head.wants_events or len(self._body) > LARGEST:
            self._usual_way()
            super().on_message_complete()
            return
        self._hot = None
        keep_alive = self.parser.should_keep_alive()
        try:
            self.commands.check(head)
        except VenvdError as error:
            self._exchanged(keep_alive).refuse(error)
            return
        if keep_alive and not head.expects and self._began_in is self._arrived:
            self._heads.learn(self._arrived, command, head)
        self._begin(command, head, self._body, keep_alive=keep_alive)

    def _begin(self, command: str, head: Head, body: bytes, *, keep_alive: bool) -> None:
        self._exchanged(keep_alive).begin(self.commands, command, head, body)

    def _exchanged(self, keep_alive: bool) -> Exchange:
        exchange = self._exchange = Exchange(self, keep_alive, self.commands.cancels)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn looks at
        return exchange

    def _usual_way(self) -> None:
        """Tell uvicorn of a request that turned out not to be hot."""
        self._hot = None
        self._usual_head()
        if self._body:
            super().on_body(self._body)

    def _usual_head(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}
        super().on_headers_complete()

    # ---- answers

    def answer(self, exchange: Exchange, status: bytes, headers: bytes, body: bytes) -> None:
        if not exchange.keep_alive:
            headers += b"connection: close\r\n"
        start = b"HTTP/1.1 %b\r\n%b%bcontent-length: %d\r\n\r\n" % (status, headers, self._default(), len(body))
        self.transport.write(start + body)
        exchange.response_complete = True
        self._exchange = None
        if not exchange.keep_alive:
            self.transport.close()
        if exchange.keep_alive and self.cycle is exchange and not self._in_head and self._hot is None:  # type: ignore[comparison-overlap]
            self._rest()
        else:
            self.on_response_complete()

    def _default(self) -> bytes:
        """The headers of every response; uvicorn makes a new list of them each second."""
        made, lines = Connection._defaults
        current = self.server_state.default_headers
        if made is not current:
            lines = b"".join(b"%b: %b\r\n" % header for header in current)
            Connection._defaults = current, lines
        return lines

    def _rest(self) -> None:
        """Wait for the next request: as `on_response_complete`, with no timer for each response."""
        self.server_state.total_requests += 1
        self._at_rest = True
        self._rested = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE, self._still_at_rest)

    def _still_at_rest(self) -> None:
        self.timeout_keep_alive_task = None
        if self._exchange is not None:
            return
        left = self._rested + KEEP_ALIVE - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._still_at_rest)
        else:
            self.timeout_keep_alive_handler()

    def _partial(self, size: int) -> None:
        now = time.monotonic()
        if self._head == 0:
            self._since = now
        self._head += size
        if self._head > HEAD_BYTES + PIECE:  # the first piece may have had others in front
            self._refuse(TooLarge(f"the request's head is larger than {HEAD_BYTES} bytes"))
        else:
            self._close_in(max(0.0, self._since + self.stall_timeout - now))

    def _close_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(f"this is not HTTP: {msg}"))

    def _refuse(self, error: VenvdError) -> None:
        body = encode(error.problem())
        status = error.http_status
        self.transport.write(_REFUSAL % (status, _REASONS.get(status, b""), len(body), body))
        self.transport.close()


class Server(uvicorn.Server):
    """Ends within the grace: calls that are still running then are answered before their connections are closed."""

    def __init__(self, config: uvicorn.Config, backend: Backend) -> None:
        super().__init__(config)
        self._backend = backend
        self._closing: asyncio.Task[None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._backend.settings.grace, self._answer_all)
        await super().shutdown(sockets)
        timer.cancel()

    def _answer_all(self) -> None:
        self._closing = asyncio.ensure_future(self._backend.close())


def server(settings: HttpSettings, **options: Any) -> Server:
    """The whole server, not running yet; `options` are uvicorn's."""
    backend = Backend(settings)
    commands = Commands(backend, settings.stall_timeout)
    connection = {"commands": commands, "stall_timeout": settings.stall_timeout}
    config = uvicorn.Config(
        Front(backend, commands, Arrays(backend, commands, settings.stall_timeout)),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=type("Connection", (Connection,), connection),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.grace) + 2,
        **options,
    )
    return Server(config, backend)
