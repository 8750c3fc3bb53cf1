"""Requests about sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional


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
