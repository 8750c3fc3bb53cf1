"""The errors of venvd: the tree of `venvd_contract.errors`, and the errors that a client adds.

::

    VenvdError
    ├── …                     the tree of the contract
    ├── UserError             user code raised. If it raised a builtin exception, the error is that exception too:
    │                         `except KeyError` and `hasattr` work as with local objects
    ├── Unavailable
    │   └── Unreachable       nothing answers at the address
    │       └── NoController  no controller answers; the message says how to start one
    └── Internal
        └── BadReply          the peer's answer breaks the protocol
"""

from __future__ import annotations

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


# Builtin exceptions that take any message and have no fields that would stay empty.
_BUILTIN: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        ArithmeticError,
        AssertionError,
        AttributeError,
        BufferError,
        EOFError,
        FileExistsError,
        FileNotFoundError,
        ImportError,
        IndexError,
        KeyError,
        LookupError,
        ModuleNotFoundError,
        NameError,
        NotImplementedError,
        OSError,
        OverflowError,
        PermissionError,
        RecursionError,
        RuntimeError,
        TimeoutError,
        TypeError,
        ValueError,
        ZeroDivisionError,
    )
}


@functools.cache
def _make_class(name: str) -> type[UserError] | None:
    kind = _BUILTIN.get(name)
    if kind is None:
        return None

    def text(self: UserError) -> str:
        return self.message

    members = {"__str__": text, "__module__": __name__, "__doc__": f"User code raised {kind.__name__}."}
    return type("UserError", (UserError, kind), members)


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
