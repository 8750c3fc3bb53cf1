"""Makes the repr of any object, with a limit of length and time, and never raises an error."""

from __future__ import annotations

import reprlib
import signal
from typing import Any

from venvd_worker.session.tracebacks import class_name, printable, type_name

LONGEST = 1000
_SECONDS = 0.5
_MANY = 100


class _TooSlow(BaseException):
    pass


def make_repr(value: Any) -> str:
    """Return `repr(value)`. Shorten it if it is long. Replace it if it raises or takes longer than half a second."""
    try:
        text = _within(value)
    except _TooSlow:
        return "<{} object, whose repr takes too long>".format(class_name(type(value)))
    except Exception as error:  # noqa: BLE001 - the user's __repr__ may raise anything
        return "<{} object, whose repr raised {}>".format(class_name(type(value)), type_name(error))
    return printable(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")


def _within(value: Any) -> str:
    """Return the repr under an alarm. If the user has set an alarm, restore it with the time that it had left."""
    handler = signal.signal(signal.SIGALRM, _raise_too_slow)
    left, interval = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        return _short.repr(value) if isinstance(value, _CONTAINERS) and len(value) > _MANY else repr(value)
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)


def _raise_too_slow(_number: int, _frame: object) -> None:
    raise _TooSlow


_CONTAINERS = (list, tuple, dict, set, frozenset)


def _make_shortener() -> reprlib.Repr:
    made = reprlib.Repr()
    made.maxlist = made.maxtuple = made.maxdict = made.maxset = made.maxfrozenset = made.maxdeque = 20
    made.maxstring = made.maxother = made.maxlong = 200
    return made


_short = _make_shortener()
