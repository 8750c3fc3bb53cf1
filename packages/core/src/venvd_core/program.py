"""The program of a server: it starts, serves until a signal, and exits."""

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
        """Answer the running calls, then close everything."""


ServerType = Callable[[Backend, SettingsType], Server]


async def serve(settings: SettingsType, import_server: Callable[[], ServerType[SettingsType]]) -> None:
    """Serve until SIGTERM or SIGINT. A sidecar also stops when its worker host ends, so that both start again.

    `import_server` imports the transport and returns the class of its server. It runs in a thread after the channel
    listens. Meanwhile the warden joins and starts the zygote.

    Raises:
        VenvdError: the server cannot listen, or is a sidecar whose worker host has ended.
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
            log.info("the server stops: it answers the running calls and exits")
        await server.close()
    finally:
        why = lost.result() if settings.sidecar and lost.done() else None
        lost.cancel()
        await backend.close()
    if why is not None:
        raise Unavailable(f"{why}; this server exits, and starts again with a new worker host")


def raise_descriptor_limit() -> None:
    """Raise the soft limit on descriptors to the hard limit: connections and shared memory need many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
