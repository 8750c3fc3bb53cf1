"""`python -m venvd_pipe_backend`: settings come from the environment, the end with SIGTERM or SIGINT."""

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
from venvd_pipe_backend.server import PIPE, PipeServer
from venvd_pipe_backend.settings import PipeSettings

log = logging.getLogger("venvd_pipe_backend")


async def run(settings: PipeSettings) -> None:
    """Serve until a signal asks for the end."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    backend = Backend(settings)
    server = PipeServer(backend, settings)
    await backend.start()
    try:
        await server.start()
        log.info("serving %s", settings.socket_dir / PIPE)
        await asked.wait()
        await server.close()
    finally:
        await backend.close()


def main() -> None:
    settings = load(PipeSettings)
    logs.configure(settings.log_level, backend=settings.name, venv=settings.venv, engine=settings.engine_name)
    descriptors.raise_limit()
    try:
        uvloop.run(run(settings))
    except VenvdError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
