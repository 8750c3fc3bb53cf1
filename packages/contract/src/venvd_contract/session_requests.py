"""Requests about sessions, and the limits of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional


@dataclass
class Limits:
    """Limits of one session; null is no limit. Sizes in bytes, `cpuSeconds` in seconds."""

    memoryBytes: Optional[int] = None
    cpuSeconds: Optional[int] = None
    processes: Optional[int] = None
    openFiles: Optional[int] = None
    fileSizeBytes: Optional[int] = None
    outputBytes: Optional[int] = 4 * 1024 * 1024
    """Output and displays of one `exec`, as JSON; the rest is cut."""
    handles: Optional[int] = 100_000
    resultBytes: Optional[int] = 16 * 1024 * 1024
    arrayBytes: Optional[int] = 4 * 1024 * 1024 * 1024
    """Size of one array that is sent or fetched; `resultBytes` does not apply to arrays."""


@dataclass
class SessionCreateRequest:
    name: Optional[str] = None
    limits: Optional[Dict[str, Any]] = None
    """Fields of `Limits`; absent ones keep the backend's default."""
    env: Optional[Dict[str, str]] = None
    idleTimeout: Optional[float] = None
    """Seconds without a call after which the session ends."""
    lifetime: Optional[float] = None
    """Seconds after its creation at which the session ends, even during a call."""
    cwd: Optional[str] = None
    """The directory in which its code runs. A relative one is below the working directory; it is made if missing."""


@dataclass
class SessionRequest:
    id: str


@dataclass
class AttachRequest:
    id: Optional[str] = None
    """The session; null is `default`."""
