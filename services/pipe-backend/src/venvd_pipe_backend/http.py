"""Probes and metrics over HTTP on a Unix socket, on the loop that is there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from venvd_core import monitor
from venvd_core.backend import Backend
from venvd_core.patience import patient


class Monitor(uvicorn.Server):
    """uvicorn, but for the signals, which are the program's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(backend: Backend, stall_timeout: float) -> Monitor:
    config = uvicorn.Config(
        monitor.app(backend),
        http=patient(HttpToolsProtocol, stall_timeout),
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return Monitor(config)


async def serve(monitor_server: Monitor, listener: socket.socket) -> None:
    await monitor_server.serve(sockets=[listener])
