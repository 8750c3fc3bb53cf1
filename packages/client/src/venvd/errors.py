"""The errors of venvd: the tree of `venvd_contract.errors`, and the errors that a client adds.

::

    VenvdError
    ├── …                     the tree of the contract
    ├── UserError             user code raised. The error also has the builtin bases of that exception. So
    │                         `except KeyError` and `hasattr` work as with local objects, and `except ValueError`
    │                         catches a JSONDecodeError. Plain `args`, `errno`, `filename`, `name`, notes and causes
    │                         are those of the exception, and `exception` describes it as a whole. `output` is what
    │                         an `exec` printed before. A DeadlineExceeded has it too
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

from venvd._output import Output
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


# Some builtin exceptions take more than a message, have another meaning in this program, or contain other errors.
_UNUSABLE = frozenset(
    {
        "BaseExceptionGroup",
        "ExceptionGroup",
        "StopAsyncIteration",
        "StopIteration",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "UnicodeTranslateError",
    }
)
_BUILTIN: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and name not in _UNUSABLE
}


@functools.cache
def _make_class(kinds: tuple[type[Exception], ...]) -> type[UserError]:
    names = " and ".join(kind.__name__ for kind in kinds)
    members = {"__module__": __name__, "__doc__": f"User code raised an error that is {names}.", "__reduce__": _reduce}
    try:
        return type("UserError", (UserError, *kinds), members)
    except TypeError:  # two of the classes store their members in different ways
        return _make_class(kinds[:1])


def _reduce(error: UserError) -> tuple[Any, ...]:
    """Return how pickle makes the error again, because a program cannot import its class."""
    return _restore, (error.fields(), error.output)


def _restore(fields: dict[str, Any], output: Output | None) -> VenvdError:
    error = error_from_reply(fields)
    error.output = output
    return error


def _find_kinds(names: list[str]) -> tuple[type[Exception], ...]:
    """Return the builtin classes among the names, nearest first, but not those that another one derives from."""
    kinds: list[type[Exception]] = []
    for kind in (_BUILTIN[name] for name in names if name in _BUILTIN):
        if kind is not Exception and not any(issubclass(nearer, kind) for nearer in kinds):
            kinds.append(kind)
    return tuple(kinds) or (Exception,)


def _make_user_error(error: VenvdError) -> VenvdError:
    """Return the error of user code as a class with the bases of what it raised, with its members and its chain."""
    known = error.exception or {}
    kinds = _find_kinds([error.error_type or "", *known.get("bases", ())])
    kind = _make_class(kinds)
    raised = kind(
        error.message,
        error_type=error.error_type,
        traceback=error.traceback,
        exception=error.exception,
        state_lost=error.state_lost,
    )
    for name in ("errno", "filename", "name"):
        if name in known and hasattr(kind, name):
            setattr(raised, name, known[name])
    raised.args = tuple(known.get("args", (error.message,)))
    for note in known.get("notes", ()):
        raised.add_note(note)
    cause = known.get("cause") or known.get("context")
    if cause is not None:
        fields = {"exception": cause, "errorType": cause.get("errorType"), "error": cause.get("message")}
        chained = _make_user_error(from_fields({"code": UserError.code, **fields}))
        raised.__cause__ = chained if "cause" in known else None
        raised.__context__ = chained
        raised.__suppress_context__ = "cause" in known
    return raised


def error_from_reply(fields: dict[str, Any]) -> VenvdError:
    """Return the error in a reply. It has the remote traceback as a note."""
    error = from_fields(fields)
    if error.output is not None:
        error.output = Output(**error.output, display=[], result=None, error=None, durationMs=0.0)
    if type(error) is UserError:
        error = _make_user_error(error)
    if error.traceback:
        error.add_note("The remote traceback:\n" + error.traceback.rstrip())
    return error
