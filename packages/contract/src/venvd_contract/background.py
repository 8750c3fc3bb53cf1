"""Requests and responses of background calls and of cancelling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional


@dataclass
class CallStartRequest:
    command: str
    """A command that a session answers."""
    payload: Dict[str, Any] = field(default_factory=dict)
    session: Optional[str] = None
    """The default of this field, and of `timeout` and `values`, is the value in the request around the payload."""
    timeout: Optional[float] = None
    values: Optional[str] = None


@dataclass
class CallGetRequest:
    id: str
    wait: Optional[float] = None
    """Seconds to wait for the end of the call. The default is 0."""


@dataclass
class CancelRequest:
    id: Any
    """The ID from `call.start`, the name that a request gave its call, or the ID of a request of this connection."""


@dataclass
class CallStarted:
    id: str
    state: str
    """`queued` or `running`."""


@dataclass
class CallError:
    code: str
    message: str
    errorType: Optional[str] = None
    traceback: Optional[str] = None
    exception: Optional[Dict[str, Any]] = None
    output: Optional[Dict[str, Any]] = None
    stateLost: Optional[bool] = None


@dataclass
class CallInfo:
    """A background call."""

    id: str
    command: str
    session: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    createdAt: str
    startedAt: Optional[str]
    endedAt: Optional[str]
    result: Any = None
    """The response of the command, if it has succeeded."""
    error: Optional[CallError] = None
