"""Lets a thread spin while it waits for the answer of a direct call."""

from __future__ import annotations

import os
import threading
from _thread import _count as count_threads
from typing import Any

from venvd.errors import InvalidRequest
from venvd_contract.spinning import MICROSECONDS, MOST_MICROSECONDS, VARIABLE, Spinner, count_cores

_OWN = "venvd-"
"""The beginning of the names of the SDK's threads. They sleep nearly all the time."""


class _Threads:
    """Tells whether this process has threads that need the interpreter while another one spins."""

    def __init__(self) -> None:
        self._count = -1
        self._alone = False

    def is_alone(self) -> bool:
        """Return whether the calling thread is the only one except those of the SDK."""
        count = count_threads()
        if count != self._count:
            others = [each for each in threading.enumerate() if each is not threading.current_thread()]
            self._alone = count <= len(others) and all(each.name.startswith(_OWN) for each in others)
            self._count = count
        return self._alone


_threads = _Threads()


class ClientSpinner(Spinner[Any]):
    """Spins if the program has no other threads."""

    __slots__ = ()

    def begin(self) -> bool:
        return _threads.is_alone()


def read_limit() -> int:
    """Return how many microseconds a wait may spin, or 0 if it may not.

    Raises:
        InvalidRequest: the environment variable is not such a number.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        microseconds = MICROSECONDS
    elif given.isdecimal() and int(given) <= MOST_MICROSECONDS:
        microseconds = int(given)
    else:
        raise InvalidRequest(f"{VARIABLE} takes microseconds from 0 to {MOST_MICROSECONDS}, and is {given[:40]!r}")
    return microseconds if count_cores() > 1 else 0
