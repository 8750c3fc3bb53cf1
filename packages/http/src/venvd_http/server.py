"""The server that runs an ASGI application: uvicorn, with the connections of this package."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from venvd_contract.errors import VenvdError
from venvd_http.asgi import CLOSE, ASGIApp, Receive, Scope, Send
from venvd_http.connection import FastPath, create_connection_type
from venvd_http.edge import Edge
from venvd_http.origin import BrowserGuard, find
from venvd_http.problems import refuse


class _FromBrowsers:
    """ASGI middleware: it refuses what the guard refuses, before the application sees the request."""

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


class Server(uvicorn.Server):
    """A uvicorn server with hooks.

    Args:
        on_start: called once the server accepts connections.
        on_stop: called as soon as the server is to end, before it waits for running requests.
        signals: whether SIGINT and SIGTERM end the server; without it `should_exit` does.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        signals: bool,
        on_start: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._signals = signals
        self._on_start = on_start
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals() if self._signals else contextlib.nullcontext():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start()

    async def add_listener(self, listener: socket.socket) -> None:
        """Serve one more listening socket while the server runs; it closes with the others."""

        def create_protocol() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        self.servers.append(await asyncio.get_running_loop().create_unix_server(create_protocol, sock=listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


def create_server(
    app: ASGIApp,
    edge: Edge,
    *,
    stall_timeout: float,
    fast_path: FastPath | None = None,
    keep_alive: int = 75,
    grace: int = 1,
    lifespan: bool = False,
    date_header: bool = False,
    signals: bool = False,
    on_start: Callable[[], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Server:
    """A server that does not run yet; `serve(sockets=[listener])` runs it.

    Args:
        app: the application.
        edge: checks and limits in front of it.
        stall_timeout: seconds for which a client in the middle of something may do nothing.
        fast_path: answers small requests without the application.
        keep_alive: seconds for which a connection stays open between two requests.
        grace: seconds that running requests have when the server ends.
        lifespan: whether the application is told of the server's start and end.
        date_header: whether responses say when they were made.
        signals: as for `Server`.
        on_start: as for `Server`.
        on_stop: as for `Server`.
    """
    config = uvicorn.Config(
        _FromBrowsers(app, edge.browsers),
        http=create_connection_type(edge, stall_timeout, fast_path),
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
    return Server(config, signals=signals, on_start=on_start, on_stop=on_stop)
