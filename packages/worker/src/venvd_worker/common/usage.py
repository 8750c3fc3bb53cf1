"""The memory and processor time of a session's process tree."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Iterable

from venvd_worker.common.process_tree import read_file, read_stat

CPU_GRACE = 2
"""Seconds of processor time that a session gets beyond its limit, to answer the call that reached the limit."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """Sums over a process tree.

    Attributes:
        private: bytes of memory that does not belong to a file. Pages that forks share count once for each process.
        cpu: seconds of processor time, including those of reaped children.
    """

    rss: int = 0
    private: int = 0
    cpu: float = 0.0
    processes: int = 0


def measure(pids: Iterable[int]) -> Usage:
    """Add up what these processes use. A process that is gone counts as zero."""
    total = Usage()
    for pid in pids:
        stat = read_stat(pid)
        if stat is None or stat.ended:
            continue
        total.processes += 1
        total.cpu += stat.cpu / _TICKS
        pages = read_file("/proc/{}/statm".format(pid)).split()
        if pages:
            resident, shared = int(pages[1]), int(pages[2])
            total.rss += resident * _PAGE
            total.private += (resident - shared) * _PAGE
    return total


def proportional(pids: Iterable[int]) -> int:
    """Return bytes of memory, with shared pages divided among the processes that share them. This is slow."""
    return sum(_rollup(pid, b"Pss:") for pid in pids)


def proportional_private(pids: Iterable[int]) -> int:
    """Return what `proportional` does, but only for memory that does not belong to a file."""
    return sum(_rollup(pid, b"Pss_Anon:") for pid in pids)


def data_size(pid: int) -> int:
    """Return the bytes of a process that count against `RLIMIT_DATA`."""
    return _field("/proc/{}/status".format(pid), b"VmData:")


def resident(pid: int) -> int:
    return measure([pid]).rss


def out_of_memory_kills() -> int:
    """Return how often the kernel killed a process of this container because memory ran out; 0 without a counter."""
    return _field("/sys/fs/cgroup/memory.events", b"oom_kill", 1) or _field(
        "/sys/fs/cgroup/memory/memory.oom_control", b"oom_kill", 1
    )


def _rollup(pid: int, name: bytes) -> int:
    return _field("/proc/{}/smaps_rollup".format(pid), name)


def _field(path: str, name: bytes, unit: int = 1024) -> int:
    for line in read_file(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1]) * unit
    return 0
