"""The errors of venvd: the tree of `venvd_contract.errors`, and the errors that a client adds.

::

    VenvdError
    ├── …                     the tree of the contract
    ├── UserError             user code raised. If it raised a builtin exception, the error is that exception too:
    │                         `except KeyError` and `hasattr` work as with local objects. Some others of the standard
    │                         library are their builtin base: `except ValueError` catches a JSONDecodeError
    ├── Unavailable
    │   └── Unreachable       nothing answers at the address
    │       └── NoController  no controller answers; the message says how to start one
    └── Internal
        └── BadReply          the peer's answer breaks the protocol
"""

from __future__ import annotations

import builtins
import functools
from typing import Any

from venvd_contract.errors import (
    Busy,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HandleNotFound,
    Internal,
    InUse,
    InvalidRequest,
    LimitExceeded,
    Moved,
    NotFound,
    SessionLost,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    UserError,
    VenvdError,
    from_fields,
)

__all__ = [
    "BadReply",
    "Busy",
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "HandleNotFound",
    "InUse",
    "Internal",
    "InvalidRequest",
    "LimitExceeded",
    "Moved",
    "NoController",
    "NotFound",
    "SessionLost",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unreachable",
    "UserError",
    "VenvdError",
]


class Unreachable(Unavailable):
    """Nothing answers at the address."""


class NoController(Unreachable):
    """No controller answers."""


class BadReply(Internal):
    """The peer's answer breaks the protocol."""


# Exceptions with more than a message to their constructor: an error is their nearest base that takes one.
_OTHER_BASES: dict[str, type[Exception]] = {
    "InvalidOperation": ArithmeticError,
    "JSONDecodeError": ValueError,
    "SSLError": OSError,
    "StatisticsError": ValueError,
    "UnicodeDecodeError": ValueError,
    "UnicodeEncodeError": ValueError,
    "UnicodeTranslateError": ValueError,
    "UnsupportedOperation": OSError,
    "ZoneInfoNotFoundError": KeyError,
    "gaierror": OSError,
    "herror": OSError,
}
_NOT_RAISED = frozenset({"StopIteration", "StopAsyncIteration", "ExceptionGroup"})
"""Names that mean something else where they are raised, or that hold other errors."""
_BUILTIN: dict[str, type[Exception]] = {
    **{
        name: kind
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and name not in _NOT_RAISED
    },
    **_OTHER_BASES,
}


@functools.cache
def _make_class(name: str) -> type[UserError] | None:
    kind = _BUILTIN.get(name)
    if kind is None:
        return None

    def text(self: UserError) -> str:
        return self.message

    members = {"__str__": text, "__module__": __name__, "__doc__": f"User code raised {name}.", "__reduce__": _reduce}
    return type("UserError", (UserError, kind), members)


def _reduce(error: UserError) -> tuple[Any, ...]:
    """Return how pickle makes the error again: its class has no name of its own."""
    return error_from_reply, (error.fields(),)


def _as_builtin(error: VenvdError) -> VenvdError:
    kind = _make_class(error.error_type or "") if type(error) is UserError else None
    if kind is None:
        return error
    return kind(error.message, error_type=error.error_type, traceback=error.traceback, state_lost=error.state_lost)


def error_from_reply(fields: dict[str, Any]) -> VenvdError:
    """Return the error in a reply, to be raised. The remote traceback is a note on it."""
    error = _as_builtin(from_fields(fields))
    if error.traceback:
        error.add_note("The remote traceback:\n" + error.traceback.rstrip())
    return error
