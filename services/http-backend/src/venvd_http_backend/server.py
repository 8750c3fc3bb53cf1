"""The HTTP server: it listens, serves connections and stops."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial

from venvd_core.backend import Backend
from venvd_http import keys, probes
from venvd_http.auth import TokenGuard
from venvd_http.connection import FastPath
from venvd_http.controller_connection import read_controller_address
from venvd_http.edge import create_backend_edge
from venvd_http.environments import Environments
from venvd_http.guesses import Guesses
from venvd_http.listening import listen_tcp
from venvd_http.server import create_server
from venvd_http.tls import Tls
from venvd_http_backend import compat
from venvd_http_backend.app import App
from venvd_http_backend.commands import Commands
from venvd_http_backend.fast import FastCall
from venvd_http_backend.routes import FAST_ROUTES
from venvd_http_backend.settings import HttpSettings

log = logging.getLogger(__name__)

KEEP_ALIVE = 120
"""Seconds that a connection stays open between two requests."""


class HttpServer:
    """Serves a backend over HTTP until it is closed."""

    def __init__(self, backend: Backend, settings: HttpSettings) -> None:
        self._backend = backend
        self._settings = settings

    async def start(self) -> None:
        """Listen.

        Raises:
            Conflict: the port is taken.
            InvalidRequest: the files of TLS cannot be used.
        """
        settings = self._settings
        tls = None if settings.tls_files is None else Tls(settings.tls_files)
        listener = listen_tcp(settings.host, settings.port)
        log.info("%s on port %d", "HTTP" if tls is None else "HTTPS", listener.getsockname()[1])
        guard = TokenGuard(
            settings.token_sha256,
            settings.metrics_token_sha256,
            name=f"backend:{settings.name}",
            guesses=Guesses(settings.max_wrong_tokens),
        )
        guard.on_key_end = self._backend.end_key
        guard.on_refusal = self._backend.refuse_token
        self._watching_keys = keys.watch(settings.keys_file, guard, self._backend.replicas)
        self._backend.environments = Environments(read_controller_address(settings), older=settings.compat)
        commands = Commands(self._backend, guard, settings)
        self._uvicorn = create_server(
            App(
                self._backend,
                guard,
                commands,
                compat.PATHS if settings.compat else {},
                open_docs=settings.open_docs,
            ),
            create_backend_edge(settings),
            stall_timeout=settings.stall_timeout,
            fast_path=FastPath(
                compat.add_fast(FAST_ROUTES) if settings.compat else FAST_ROUTES,
                commands.admit,
                partial(FastCall, commands),
            ),
            tls=tls,
            probes=probes.PATHS,
            keep_alive=KEEP_ALIVE,
            grace=math.ceil(settings.grace) + 2,
            date_header=True,
        )
        self._serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[listener]))

    async def close(self) -> None:
        """Stop listening, wait up to the grace for calls, end those that still run, and close all connections."""
        closing = asyncio.ensure_future(self._close_backend())
        self._uvicorn.should_exit = True
        await self._serving
        closing.cancel()
        if self._watching_keys is not None:
            self._watching_keys.cancel()

    async def _close_backend(self) -> None:
        await asyncio.sleep(self._settings.grace)
        await self._backend.close()
