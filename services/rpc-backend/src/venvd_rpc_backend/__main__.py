"""`python -m venvd_rpc_backend`: settings come from the environment, the end with SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop

from venvd_contract.errors import VenvdError
from venvd_core import descriptors
from venvd_core.backend import Backend
from venvd_core.settings import load
from venvd_http import logs
from venvd_rpc_backend import memory
from venvd_rpc_backend.server import RpcServer
from venvd_rpc_backend.settings import RpcSettings

log = logging.getLogger("venvd_rpc_backend")


async def run(settings: RpcSettings) -> None:
    """Serve until a signal asks for the end."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    backend = Backend(settings)
    server = RpcServer(backend, settings)
    await backend.start()
    try:
        await server.start()
        log.info("gRPC on port %d, HTTP on port %d", server.port, server.http_port)
        await asked.wait()
        await server.close()
    finally:
        await backend.close()


def main() -> None:
    memory.keep_freed()
    settings = load(RpcSettings)
    logs.configure(settings.log_level, backend=settings.name, venv=settings.venv, engine=settings.engine_name)
    descriptors.raise_limit()
    try:
        uvloop.run(run(settings))
    except VenvdError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
