"""uvicorn, with what it lacks: bounds on a request's head, problem details for what is no HTTP, and a clean end."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from venvd_contract.errors import InvalidRequest, TooLarge, VenvdError
from venvd_core.backend import Backend
from venvd_core.wire import encode
from venvd_http_backend.front import Front
from venvd_http_backend.settings import HttpSettings

KEEP_ALIVE = 120
HEAD_BYTES = 64 * 1024
HEAD_WITHIN = 30.0

_REFUSAL = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)
_REASONS = {400: b"Bad Request", 413: b"Content Too Large"}


class Connection(HttpToolsProtocol):
    """One connection. A head may have `HEAD_BYTES`, and take `HEAD_WITHIN` seconds from its first byte."""

    _in_head = False
    _head = 0
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_in(KEEP_ALIVE)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._partial(len(data))

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head = 0
        super().on_headers_complete()

    def _partial(self, size: int) -> None:
        now = time.monotonic()
        if self._head == 0:
            self._since = now
        self._head += size
        if self._head > HEAD_BYTES:
            self._refuse(TooLarge(f"the request's head is larger than {HEAD_BYTES} bytes"))
        else:
            self._close_in(max(0.0, self._since + HEAD_WITHIN - now))

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
    config = uvicorn.Config(
        Front(backend),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Connection,
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
