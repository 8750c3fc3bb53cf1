"""Waiting without sleep, because the kernel takes longer to wake a process on another core than a short call takes.

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
"""The longest spin without a setting."""
MOST_MICROSECONDS = 1000

_FIRST_PAUSE = 16
"""Waits before the first spin: many clients make few calls."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 4, 4096
"""Waits without a spin after a failed one; the number doubles each time."""
_STREAK = 8
"""Successful spins in a row that halve the pause.

The timer of a virtual machine spoils one or two spins of a hundred, and the pause must not grow by that. Where one in
ten fails, it grows: the failed spins then cost more than the rest gain.
"""
_SHARED = 8e-6
"""If two looks are further apart than these seconds, another process, or the peer itself, used this core in between."""

_OLD_GROUP = "/sys/fs/cgroup/cpu/cpu."


class Spinner(Generic[T]):
    """Polls for an event for a short time, before its owner sleeps until the event.

    It learns from each spin. A spin fails if no event comes in time, or if another process wants the core. The next
    waits are then without a spin: twice as many after each failure, half as many after each streak of successful spins.
    The owner counts these waits down in `skips`, because a method call would slow down each wait.

    Args:
        look: returns the event, or a false value if there is none yet.
        microseconds: the longest spin; 0 for none.

    Attributes:
        skips: the number of waits until the next spin; below 0, no spin follows.
    """

    __slots__ = ("_look", "_pause", "_seconds", "_streak", "skips")

    def __init__(self, look: Callable[[], T], microseconds: int) -> None:
        self._look = look
        self._seconds = microseconds / 1e6
        self._pause = _SHORTEST_PAUSE
        self._streak = 0
        self.skips = _FIRST_PAUSE if microseconds else -1

    def spin(self) -> Optional[T]:
        """Return the event, or a false value if the owner must sleep."""
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
                sched_yield()  # lets other processes use this core
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
    """Return the number of cores that this process may use: those of the machine, or fewer by its control group."""
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
