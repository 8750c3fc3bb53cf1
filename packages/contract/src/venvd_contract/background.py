"""What is asked and answered about calls that are left and fetched later, and about cancelling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional


@dataclass
class CallStartRequest:
    command: str
    """A command that a session answers."""
    payload: Dict[str, Any] = field(default_factory=dict)
    session: Optional[str] = None
    """Where this and the next two are absent, what the request says beside its payload counts."""
    timeout: Optional[float] = None
    values: Optional[str] = None


@dataclass
class CallGetRequest:
    id: str
    wait: Optional[float] = None
    """Seconds to wait for the call's end; absent is not at all."""


@dataclass
class CancelRequest:
    id: Any
    """What `call.start` answered, the name that a request gave its call, or the ID of a request of this connection."""


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
    stateLost: Optional[bool] = None


@dataclass
class CallInfo:
    """A call that was started and left."""

    id: str
    command: str
    session: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    createdAt: str
    startedAt: Optional[str]
    endedAt: Optional[str]
    result: Any = None
    """The command's response, once it succeeded."""
    error: Optional[CallError] = None
