"""Files that name a running process, perhaps of another program. They tell it from a later process with its ID."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from venvd._home import read_line

_STOP_TIMEOUT = 30.0


def write(path: Path, pid: int) -> None:
    """Write the file that names a process."""
    path.write_text(f"{pid} {_start_time(pid)}\n", encoding="ascii")


def read_running(path: Path) -> int | None:
    """Return the process ID in the file if that process still runs, else None."""
    words = (read_line(path) or "").split()
    if len(words) != 2 or not words[0].isdecimal():
        return None
    return int(words[0]) if _start_time(int(words[0])) == words[1] else None


def stop(path: Path) -> int | None:
    """End the process that the file names with SIGTERM, then SIGKILL. Return its ID, or None if it did not run."""
    pid = read_running(path)
    if pid is not None:
        began = _start_time(pid)
        _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while began is not None and _start_time(pid) == began:
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
                deadline += _STOP_TIMEOUT
            time.sleep(0.05)
    path.unlink(missing_ok=True)
    return pid


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks, or None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
