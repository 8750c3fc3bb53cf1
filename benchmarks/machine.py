"""The machine: what it is, which core everything runs on, what its processes hold."""

from __future__ import annotations

import contextlib
import os
import platform
import timeit
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
"""Of the processes of a run, which import this package and the tests' harness."""

COMPILE = "compile('1+1', '', 'eval')"
"""How fast the interpreter is here: the kernel's echo, which some floors are, does not get slower with it."""


def facts() -> dict[str, object]:
    """What a figure depends on."""
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
    """The process and everything below it."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, children.read_text().split())
    return found


def place(roots: Iterable[int], cores: set[int]) -> None:
    """Let every thread of these processes and of those below them run on these cores only; what they start, too.

    Raises:
        RuntimeError: the kernel did not do it.
    """
    for pid in (pid for root in roots for pid in tree(root)):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), cores)
                if os.sched_getaffinity(int(task.name)) != cores:
                    raise RuntimeError(f"process {pid} does not stay on the cores {sorted(cores)}")


def switches(pid: int) -> int:
    """How often a process went to sleep: more often, each time that it had something to do."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def pss(root: int) -> float:
    """Proportional memory of a process and everything below it, in MB: what is shared is divided among its users."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6
