"""The machine: its description, the cores of processes, and their memory."""

from __future__ import annotations

import contextlib
import os
import platform
import timeit
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
"""Environment of the processes of a run, which import this package and the tests' harness."""

COMPILE = "compile('1+1', '', 'eval')"
"""Shows how fast the interpreter is on this machine. Some floors are echoes, whose time depends on the kernel."""


def facts() -> dict[str, object]:
    """The facts that figures depend on."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compileMicroseconds": round(min(timeit.repeat(COMPILE, number=2000, repeat=9)) / 2000 * 1e6, 2),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    pids, todo = [], [pid]
    while todo:
        pid = todo.pop()
        pids.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, children.read_text().split())
    return pids


def pin(roots: Iterable[int], cores: set[int]) -> None:
    """Pin every thread of these processes and of their descendants, present and future, to some cores.

    Raises:
        RuntimeError: the kernel did not apply the affinity.
    """
    for pid in (pid for root in roots for pid in tree(root)):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), cores)
                if os.sched_getaffinity(int(task.name)) != cores:
                    raise RuntimeError(f"process {pid} did not accept the cores {sorted(cores)}")


def switches(pid: int) -> int:
    """Context switches of a process so far; a process that handles calls makes at least one for each."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def pss(root: int) -> float:
    """Proportional set size of a process and all its descendants, in MB; shared pages are divided among their users."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6
