"""The server side of a backend: what the three servers put their transport in front of."""

from __future__ import annotations

import asyncio

from venvd_core.calls import Reply, Request
from venvd_core.settings import BackendSettings

__all__ = ["Backend", "Reply", "Request"]


class Backend:
    """Sessions behind one warden. All methods belong to one event loop."""

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings

    async def start(self) -> None:
        """Begin to connect to the warden; returns at once, readiness tells when it is there."""
        raise NotImplementedError

    async def close(self) -> None:
        """End every session and the connection to the warden."""
        raise NotImplementedError

    def call(self, request: Request) -> asyncio.Future[Reply]:
        """Begin a call. Every error comes as a `VenvdError` from the future; cancelling it cancels the call."""
        raise NotImplementedError

    def authorise(self, token: str | None, scope: str = "use") -> None:
        """Check a token for the scope `use` or `metrics`.

        Raises:
            Unauthenticated: none, or one that nothing accepts.
            Forbidden: it is known and not enough.
        """
        raise NotImplementedError

    def ready(self) -> dict[str, str]:
        """What keeps the backend from serving, by the name of the check; empty where it is ready."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Ask the warden for the figures that only it has; what a scrape awaits before `metrics`."""
        raise NotImplementedError

    def metrics(self) -> bytes:
        """Everything measured, in Prometheus' text format."""
        raise NotImplementedError
