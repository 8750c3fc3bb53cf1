"""`python -m venvd_http_backend`: settings come from the environment, the end with SIGTERM or SIGINT."""

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
from venvd_http_backend.server import BackendServer
from venvd_http_backend.settings import HttpSettings

log = logging.getLogger("venvd_http_backend")


async def run(settings: HttpSettings) -> None:
    """Serve until a signal asks for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    backend = Backend(settings)
    server = BackendServer(backend, settings)
    await backend.start()
    try:
        server.start()
        log.info("HTTP on port %d", server.port)
        await stop.wait()
        await server.close()
    finally:
        await backend.close()


def main() -> None:
    settings = load(HttpSettings)
    logs.configure(settings.log_level, backend=settings.name, venv=settings.venv, engine=settings.engine_name)
    descriptors.raise_limit()
    try:
        uvloop.run(run(settings))
    except VenvdError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
