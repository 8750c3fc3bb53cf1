"""Waiting without sleep: the kernel takes longer to wake a process on another core than a short call takes.

Client and session use it between the calls of a fast sequence; decision 30 says when.
"""

from __future__ import annotations

import os
from os import sched_yield
from time import monotonic
from typing import Callable, Generic, Optional, TypeVar

T = TypeVar("T")

VARIABLE = "VENVD_SPIN_MICROSECONDS"
MICROSECONDS = 50
"""How long a wait may spin where nothing else is set."""
MOST_MICROSECONDS = 1000

_FIRST_PAUSE = 16
"""Waits before the first spin: many clients make few calls."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 4, 4096
"""Waits that follow a spin in vain; twice as many each time."""
_STREAK = 32
"""Good spins in a row that halve the pause: spins that are in vain now and then cost more than the others gain."""
_SHARED = 5e-6
"""Seconds between two looks after which another process, or the peer itself, had this core."""

_OLD_GROUP = "/sys/fs/cgroup/cpu/cpu."


class Spinner(Generic[T]):
    """Looks for something again and again before its owner sleeps until it comes.

    It learns from each spin. Nothing seen in time, or a core that others want, ends the spin; waits then go by without
    one, twice as many each time, and half as many after each streak of good spins. The owner counts these down in
    `skips`, because a call of a method would slow down each wait.

    Args:
        look: returns what is there now, or something false.
        microseconds: the longest spin; 0 for none.

    Attributes:
        skips: the waits that go by until the next spin. Below 0 there is none.
    """

    __slots__ = ("_look", "_pause", "_seconds", "_streak", "skips")

    def __init__(self, look: Callable[[], T], microseconds: int) -> None:
        self._look = look
        self._seconds = microseconds / 1e6
        self._pause = _SHORTEST_PAUSE
        self._streak = 0
        self.skips = _FIRST_PAUSE if microseconds else -1

    def spin(self) -> Optional[T]:
        """Return what was seen, or something false where the owner has to sleep."""
        seen: Optional[T] = None
        if self.begin():
            look = self._look
            looked = monotonic()
            end = looked + self._seconds
            while True:
                seen = look()
                now = monotonic()
                shared = now - looked > _SHARED
                if shared or seen or now > end:
                    break
                looked = now
                sched_yield()  # to others that want this core
            if seen and not shared:
                self._streak += 1
                if self._streak == _STREAK:
                    self._streak = 0
                    self._pause = max(_SHORTEST_PAUSE, self._pause // 2)
                return seen
        self.stop()
        self._streak = 0
        self.skips = self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return seen

    def begin(self) -> bool:
        """Return whether a spin may begin."""
        return True

    def stop(self) -> None:
        """Note that the next waits do not spin."""


def count_cores() -> int:
    """Return how many cores this machine has, or as many as the control group of this process may use; at least 1."""
    return max(1, int(min(os.cpu_count() or 1, _read_quota())))


def _read_quota() -> float:
    """Return the seconds of processor time that the control group, and those above it, may use in one second."""
    path = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    parts = path.strip("/").split("/")
    limits = [_read("/".join(["/sys/fs/cgroup", *parts[:depth], "cpu.max"])) for depth in range(len(parts) + 1)]
    limits.append(_read(_OLD_GROUP + "cfs_quota_us") + " " + _read(_OLD_GROUP + "cfs_period_us"))
    return min(map(_parse_limit, limits))


def _parse_limit(limit: str) -> float:
    words = limit.split()
    return int(words[0]) / int(words[1]) if len(words) > 1 and words[0].isdigit() else float("inf")


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123 - a session need not import pathlib
            return file.read()
    except OSError:
        return ""
