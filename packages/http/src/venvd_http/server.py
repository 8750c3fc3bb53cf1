"""The server that runs an ASGI application: uvicorn, with the connections of this package."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from venvd_contract.errors import Forbidden, VenvdError
from venvd_http.asgi import CLOSE, ASGIApp, Receive, Scope, Send
from venvd_http.connection import TRANSPORT, FastPath, HttpConnection, create_connection_type
from venvd_http.edge import Edge
from venvd_http.origin import BrowserGuard, find
from venvd_http.problems import refuse
from venvd_http.tls import NEEDS_CERTIFICATE, Handshake, Tls, has_client_certificate

_DATE_SECONDS = 1.0


class _FromBrowsers:
    """ASGI middleware: has the guard check each request before the application gets it."""

    def __init__(self, app: ASGIApp, guard: BrowserGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._guard.check(*find(scope["headers"]))
            except VenvdError as error:
                await refuse(send, error, headers=CLOSE)
                return
        await self._app(scope, receive, send)


class _WithCertificates:
    """ASGI middleware: refuses clients without a certificate, except for probes and on Unix sockets."""

    def __init__(self, app: ASGIApp, probes: Collection[str]) -> None:
        self._app = app
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["scheme"] == "https" and scope["path"] not in self._probes:
            transport = (scope.get("extensions") or {}).get(TRANSPORT)
            if not has_client_certificate(transport):
                await refuse(send, Forbidden(NEEDS_CERTIFICATE), headers=CLOSE)
                return
        await self._app(scope, receive, send)


class Server(uvicorn.Server):
    """A uvicorn server with hooks. It sleeps while it has nothing to do; uvicorn's own wakes up ten times a second.

    Args:
        on_start: called when the server accepts connections.
        on_stop: called when the server stops, before it waits for running requests.
        signals: whether SIGINT and SIGTERM stop the server; otherwise only `should_exit` does.
        tls: the TLS of TCP connections; Unix sockets have none.
    """

    _should_exit = False
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        connection_type: type[HttpConnection],
        *,
        signals: bool,
        tls: Tls | None = None,
        on_start: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._connection_type = connection_type
        self._signals = signals
        self._tls = tls
        self._on_start = on_start
        self._on_stop = on_stop
        self._exit = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None

    @property
    def should_exit(self) -> bool:
        """Whether the server stops. Any thread and any signal handler may set it."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._exit.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # sets the headers of all responses, such as the date
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exit.wait(), _DATE_SECONDS if self.config.date_header else None)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals() if self._signals else contextlib.nullcontext():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._tls is not None:
            self._renewing = asyncio.get_running_loop().create_task(self._tls.watch())
        if self.started and self._on_start is not None:
            self._on_start()

    async def add_listener(self, listener: socket.socket) -> None:
        """Serve one more listening Unix socket while the server runs; it closes with the others."""

        def create_protocol() -> asyncio.Protocol:
            return self._connection_type(self.config, self.server_state, self.lifespan.state)

        self.servers.append(await asyncio.get_running_loop().create_unix_server(create_protocol, sock=listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop is not None:
            self._on_stop()
        if self._renewing is not None:
            self._renewing.cancel()
        await super().shutdown(sockets)


def create_server(
    app: ASGIApp,
    edge: Edge,
    *,
    stall_timeout: float,
    fast_path: FastPath | None = None,
    tls: Tls | None = None,
    probes: Collection[str] = (),
    keep_alive: int = 75,
    grace: int = 1,
    lifespan: bool = False,
    date_header: bool = False,
    signals: bool = False,
    on_start: Callable[[], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Server:
    """Create a server; `serve(sockets=[listener])` runs it.

    Args:
        app: the application.
        edge: checks and limits in front of it.
        stall_timeout: seconds that a client may pause in the middle of a request, or leave answers unread.
        fast_path: answers small requests without the application.
        tls: the TLS of TCP connections.
        probes: paths for which clients need no certificate, even if `tls` requires one.
        keep_alive: seconds that a connection stays open between two requests.
        grace: seconds that running requests have when the server stops.
        lifespan: whether the server tells the application about its start and stop.
        date_header: whether responses have the header `date`.
        signals: as for `Server`.
        on_start: as for `Server`.
        on_stop: as for `Server`.
    """
    needs_certificate = tls is not None and tls.needs_client_certificate
    if needs_certificate:
        app = _WithCertificates(app, probes)
    connection_type = create_connection_type(edge, stall_timeout, fast_path, needs_certificate=needs_certificate)
    config = uvicorn.Config(
        _FromBrowsers(app, edge.browsers),
        http=connection_type if tls is None else _put_behind_handshake(connection_type, tls),  # type: ignore[arg-type]
        ws="none",
        lifespan="on" if lifespan else "off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=date_header,
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=grace,
    )
    return Server(config, connection_type, signals=signals, tls=tls, on_start=on_start, on_stop=on_stop)


def _put_behind_handshake(connection_type: type[HttpConnection], tls: Tls) -> Callable[..., Handshake]:
    """Return the function that uvicorn calls for each connection."""

    def create(config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], **_: Any) -> Handshake:
        def create_connection() -> HttpConnection:
            return connection_type(config, server_state, app_state)

        return Handshake(tls, connection_type.edge.admission, server_state, create_connection)

    return create
