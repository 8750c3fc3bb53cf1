"""The router: how it opens its ports, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import math

from venvd_http import keys
from venvd_http.auth import TokenGuard
from venvd_http.connection import FastPath
from venvd_http.edge import create_backend_edge
from venvd_http.guesses import Guesses
from venvd_http.listening import listen_tcp
from venvd_http.server import create_server
from venvd_http.tls import Tls
from venvd_router import probes
from venvd_router.activity import Activity, Metrics
from venvd_router.app import App
from venvd_router.fast import ROUTES, FastCalls
from venvd_router.forward import Forwarder
from venvd_router.loads import Loads
from venvd_router.replicas import Replicas
from venvd_router.rpc.server import RpcServer
from venvd_router.settings import RouterSettings
from venvd_router.upstream import Upstream

log = logging.getLogger(__name__)

KEEP_ALIVE = 120
"""Seconds that a connection stays open between two requests."""


class Router:
    """Routes requests until it is closed."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._rpc: RpcServer | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            Conflict: a port is taken.
            InvalidRequest: the files of TLS cannot be used.
        """
        settings = self._settings
        is_rpc = settings.type == "rpc"
        tls = None if settings.tls_files is None or is_rpc else Tls(settings.tls_files)
        listener = listen_tcp(settings.host, settings.http_port if is_rpc else settings.port)
        log.info("%s on port %d", "HTTP" if tls is None else "HTTPS", listener.getsockname()[1])
        guard = TokenGuard(
            settings.token_sha256,
            settings.metrics_token_sha256,
            name=f"backend:{settings.name}",
            guesses=Guesses(settings.max_wrong_tokens),
        )
        replicas = Replicas(settings.address_timeout, settings.max_waiting)
        self._watching_keys = keys.watch(settings.keys_file, guard, replicas)
        self._upstream = Upstream(settings.connect_timeout)
        activity = Activity(replicas)
        loads = Loads(replicas, self._upstream, settings.metrics_token)
        metrics = Metrics(activity, replicas, self._upstream)
        own = probes.Probes(guard, replicas, loads, activity, metrics)
        forwarder = Forwarder(replicas, self._upstream, activity)
        if is_rpc:
            self._rpc = RpcServer(settings, guard, replicas, loads, activity, own)
            await self._rpc.start()
        app = App(settings, guard, replicas, forwarder, loads, activity, own)
        calls = FastCalls(replicas, self._upstream, activity)
        self._uvicorn = create_server(
            app,
            create_backend_edge(settings),
            stall_timeout=settings.stall_timeout,
            fast_path=FastPath({} if is_rpc else ROUTES, app.admit, calls.start),
            tls=tls,
            probes=probes.PATHS,
            keep_alive=KEEP_ALIVE,
            grace=math.ceil(settings.grace),
        )
        self._serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[listener]))

    async def close(self) -> None:
        """Stop listening, let requests run for the grace time, then close all connections."""
        if self._rpc is not None:
            await self._rpc.close()
        self._uvicorn.should_exit = True
        await self._serving
        if self._watching_keys is not None:
            self._watching_keys.cancel()
        self._upstream.close()
