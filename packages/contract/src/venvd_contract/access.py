"""Access keys: their scopes, their resources, and the audit log, with the field names of the wire, hence camelCase.

::

    admin           everything
    operator        everything but keys and settings
    venv:NAME       create, change and use the venv NAME and its backends
    use:BACKEND     calls of one backend
    metrics         metrics of the controller and of all backends

The prefix of a token tells its kind: `vc_` is a token of the controller's home, `vk_` a key, and `vd_` a token of one
backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import check_name

ADMIN = "admin"
OPERATOR = "operator"
METRICS = "metrics"
VENV = "venv:"
USE = "use:"

KEY_PREFIX = "vk_"
BACKEND_PREFIX = "vd_"


def check_scope(scope: str) -> str:
    """Return `scope` if it is one of the scopes above.

    Raises:
        InvalidRequest: it is not; the message lists the scopes.
    """
    if scope in {ADMIN, OPERATOR, METRICS}:
        return scope
    for prefix, kind in ((VENV, "venv"), (USE, "backend")):
        if scope.startswith(prefix):
            check_name(kind, scope[len(prefix) :])
            return scope
    raise InvalidRequest(
        '"{}" is not a scope: the scopes are admin, operator, venv:NAME, use:BACKEND and metrics'.format(scope[:80])
    )


@dataclass
class Key:
    name: str
    scope: List[str]
    createdAt: str
    expiresAt: Optional[str] = None
    """Null is never."""
    expired: bool = False
    lastUsedAt: Optional[str] = None
    """The last request to the controller, to the minute. Calls of backends do not count."""
    key: Optional[str] = None
    """The token. Only the answer to the creation of the key contains it."""


@dataclass
class AuditEntry:
    """One line of the audit log: a request that changes something, a session that begins or ends, or a refusal.

    For events of a backend, `method` is `session.create`, `session.reset`, `session.delete`, `session.end`,
    `token.refuse`, `key.end` or `audit.drop`; `backend.end` is a backend that ended by itself.
    """

    id: int
    """Counts upwards."""
    time: str
    key: Optional[str]
    """The name of the key; `admin` is the token of the controller's home. Null: the token was unknown or missing."""
    peer: str
    """The address of the sender; `server` is the server of a backend itself, `controller` the controller itself."""
    method: str
    target: str
    """The path; for an event of a backend `/backends/NAME` or `/backends/NAME/sessions/ID`."""
    status: int
    """The HTTP status of the answer."""
    code: Optional[str] = None
    """The code of the error, if the request failed."""
    fields: Dict[str, Any] = field(default_factory=dict)
    """The changed fields, without secrets."""
    count: int = 1
    """The number of requests or events in this line."""
