"""Processes that were started earlier, perhaps by another program: known by a file, never taken for another."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from venvd.home import read

_STOP_TIMEOUT = 30.0


def born(pid: int) -> str | None:
    """When a process began, in clock ticks: with it a process ID names one process for good. None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def record(path: Path, pid: int) -> None:
    """Note a process in a file."""
    path.write_text(f"{pid} {born(pid)}\n", encoding="ascii")


def recorded(path: Path) -> int | None:
    """The process ID that a file names, if that very process still runs."""
    words = (read(path) or "").split()
    if len(words) != 2 or not words[0].isdecimal():
        return None
    return int(words[0]) if born(int(words[0])) == words[1] else None


def stop(path: Path) -> int | None:
    """End the process that a file names: SIGTERM, and SIGKILL where that is not enough; its ID, if there was one."""
    pid = recorded(path)
    if pid is not None:
        began = born(pid)
        _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while began is not None and born(pid) == began:
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
                deadline += _STOP_TIMEOUT
            time.sleep(0.05)
    path.unlink(missing_ok=True)
    return pid


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
