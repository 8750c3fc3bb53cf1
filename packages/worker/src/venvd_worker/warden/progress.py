"""Tells whether processes that have not answered make progress, because a busy machine can slow them."""

from __future__ import annotations

from typing import Optional, Sequence

from venvd_worker.common import usage
from venvd_worker.common.process_tree import read_file, read_stat

_NANOSECONDS = 1e9


class Progress:
    """Compares the processor time of some processes with their time at the last check."""

    def __init__(self) -> None:
        self._used: Optional[float] = None

    def check(self, pids: Sequence[int]) -> bool:
        """Return whether a process ran since the last check, or waits for a processor or a disk."""
        before, self._used = self._used, usage.measure(pids).cpu
        return self._used != before or any(map(_is_held_up, pids))


def _is_held_up(pid: int) -> bool:
    """Return whether a process runs on a processor, or waits for one or for a disk."""
    stat = read_stat(pid)
    return stat is not None and stat.state in "RD"


def read_queue_time(pid: int) -> float:
    """Return the seconds that a process waited for a free processor, or 0 if the kernel does not count them."""
    words = read_file("/proc/{}/schedstat".format(pid)).split()
    return int(words[1]) / _NANOSECONDS if len(words) > 1 else 0.0
