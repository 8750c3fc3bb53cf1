"""The settings of the HTTP server: those of every server, and where it listens."""

from __future__ import annotations

from pydantic import Field

from venvd_core.settings import BackendSettings


class HttpSettings(BackendSettings):
    host: str = "0.0.0.0"  # noqa: S104 — in its container; what is published is the engine's matter
    port: int = Field(default=5678, ge=0, le=65535)
    stall_timeout: float = Field(default=60, gt=0)
    """Seconds that a request's head may take, that its body may pause, and that answers may lie unread."""
    open_docs: bool = True
    """Whether `/docs` and `/openapi.json` need no token."""
