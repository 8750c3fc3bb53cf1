"""Whether processes that have not answered make progress: a busy machine is no reason to give them up."""

from __future__ import annotations

from typing import Optional, Sequence

from venvd_worker.common import usage
from venvd_worker.common.process_tree import read_file, read_stat

_NANOSECONDS = 1e9


class Progress:
    """Compares the processor time of some processes with that of the check before."""

    def __init__(self) -> None:
        self._used: Optional[float] = None

    def check(self, pids: Sequence[int]) -> bool:
        """Whether they ran since the last check, or would if they could; false where all sleep or are stopped."""
        before, self._used = self._used, usage.measure(pids).cpu
        return self._used != before or any(map(_is_held_up, pids))


def _is_held_up(pid: int) -> bool:
    """Whether a process has a processor, or waits for one or for a disk."""
    stat = read_stat(pid)
    return stat is not None and stat.state in "RD"


def read_queue_time(pid: int) -> float:
    """Seconds for which a process was ready and no processor was free; 0 where the kernel does not count them."""
    words = read_file("/proc/{}/schedstat".format(pid)).split()
    return int(words[1]) / _NANOSECONDS if len(words) > 1 else 0.0
