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
from venvd_core.wire import encode
from venvd_http_backend.front import HOT, Front
from venvd_http_backend.hot import LARGEST, Exchange
from venvd_http_backend.incoming import Head
from venvd_http_backend.operations import Operations
from venvd_http_backend.settings import HttpSettings

KEEP_ALIVE = 120
HEAD_BYTES = 64 * 1024
PIPELINED = 8
"""Requests that may stand behind one that is not answered before reading stops."""

_HOT = {path.encode(): command for path, command in HOT.items()}
_REFUSAL = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)
_REASONS = {400: b"Bad Request", 413: b"Content Too Large"}


class Connection(HttpToolsProtocol):
    """One connection. A head may have `HEAD_BYTES`, and take `head_within` seconds from its first byte."""

    operations: ClassVar[Operations]
    head_within: ClassVar[float]

    _in_head = False
    _head = 0
    _since = 0.0
    _hot: str | None = None
    """The command of a hot request that is not whole yet; uvicorn has not been told of it."""
    _body = b""
    _exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_in(KEEP_ALIVE)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._hot is not None:
            self._usual_way()
        if self._in_head and not self.transport.is_closing():
            self._partial(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.gone()

    # ---- the parser's callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
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
        operations = self.operations
        exchange = self._exchange = Exchange(self, self.parser.should_keep_alive(), operations.cancels)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn looks at
        exchange.begin(operations, command, head, self._body)

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
        super().on_headers_complete()
        if 0 < len(self.pipeline) < PIPELINED:
            self.flow.resume_reading()  # who does not read does not see the client leave either

    # ---- answers

    def answer(self, exchange: Exchange, status: bytes, headers: bytes, body: bytes) -> None:
        if not exchange.keep_alive:
            headers += b"connection: close\r\n"
        for name, value in self.server_state.default_headers:
            headers += b"%b: %b\r\n" % (name, value)
        self.transport.write(b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body))
        exchange.response_complete = True
        self._exchange = None
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _partial(self, size: int) -> None:
        now = time.monotonic()
        if self._head == 0:
            self._since = now
        self._head += size
        if self._head > HEAD_BYTES:
            self._refuse(TooLarge(f"the request's head is larger than {HEAD_BYTES} bytes"))
        else:
            self._close_in(max(0.0, self._since + self.head_within - now))

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
    operations = Operations(backend, settings.stall_timeout)
    connection = {"operations": operations, "head_within": settings.stall_timeout}
    config = uvicorn.Config(
        Front(backend, operations),
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
