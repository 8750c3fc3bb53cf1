"""`python -m venvd_router`: runs the router until SIGTERM or SIGINT. The environment has the settings."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys

import uvloop

from venvd_contract.errors import VenvdError
from venvd_http import logs
from venvd_router.server import Router
from venvd_router.settings import RouterSettings, load

log = logging.getLogger(__name__)


def main() -> None:
    settings = load()
    logs.configure(settings.log_level, router=settings.name)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        uvloop.run(_serve(settings))
    except VenvdError as error:
        sys.exit(error.message)


async def _serve(settings: RouterSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    router = Router(settings)
    await router.start()
    await stop.wait()
    log.info("the router was asked to stop: it lets the running requests end and exits")
    await router.close()


if __name__ == "__main__":
    main()
