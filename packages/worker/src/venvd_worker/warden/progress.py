"""Whether processes that have not answered get on: that a machine is busy is no reason to give them up."""

from __future__ import annotations

from typing import Optional, Sequence

from venvd_worker.common import usage
from venvd_worker.common.process_tree import read_file, read_stat

_HELD_UP = ("R", "D")
"""States of a process that has a processor, or waits for one or for a disk."""
_NANOSECONDS = 1e9


class Progress:
    """Looks at processes every few seconds."""

    def __init__(self) -> None:
        self._used: Optional[float] = None

    def made(self, pids: Sequence[int]) -> bool:
        """Whether they ran since the last look, or would if they could; false where all sleep or are stopped."""
        before, self._used = self._used, usage.measure(pids).cpu
        return self._used != before or any(_state(pid) in _HELD_UP for pid in pids)


def queued(pid: int) -> float:
    """Seconds for which a process was ready to run and no processor was free; 0 where the kernel does not tell."""
    words = read_file("/proc/{}/schedstat".format(pid)).split()
    return int(words[1]) / _NANOSECONDS if len(words) > 1 else 0.0


def _state(pid: int) -> str:
    stat = read_stat(pid)
    return "" if stat is None else stat.state
