"""The program of a server: it starts, serves until a signal, and ends."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Callable
from typing import Protocol, TypeVar

from venvd_contract.errors import Unavailable
from venvd_core.backend import Backend
from venvd_core.settings import BackendSettings

log = logging.getLogger(__name__)

SettingsType = TypeVar("SettingsType", bound=BackendSettings)


class Server(Protocol):
    """A server of one transport in front of a backend."""

    async def start(self) -> None:
        """Listen; raises `VenvdError` if that is impossible."""

    async def close(self) -> None:
        """Answer what runs, then close everything."""


ServerType = Callable[[Backend, SettingsType], Server]


async def serve(settings: SettingsType, import_server: Callable[[], ServerType[SettingsType]]) -> None:
    """Serve until SIGTERM or SIGINT. A sidecar also ends with its worker host, so that both are started afresh.

    `import_server` imports the transport and returns the class of its server. It runs in a thread once the channel
    listens, while the warden joins and starts the zygote.

    Raises:
        VenvdError: the server cannot listen, or is a sidecar whose worker host is gone.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    backend = Backend(settings)
    await backend.start()
    lost = loop.create_task(backend.wait_for_loss_of_worker(), name="loss of the worker host")
    if settings.sidecar:
        lost.add_done_callback(lambda _: stop.set())
    try:
        server = (await asyncio.to_thread(import_server))(backend, settings)
        await server.start()
        await stop.wait()
        if not lost.done():
            log.info("the server was asked to stop: it answers the running calls and exits")
        await server.close()
    finally:
        why = lost.result() if settings.sidecar and lost.done() else None
        lost.cancel()
        await backend.close()
    if why is not None:
        raise Unavailable(f"{why}; this server ends, and starts again with another worker host")


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may: connections and shared memory of sessions take them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
