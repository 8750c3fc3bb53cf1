"""Processes by identity: a process ID and the start time, because the kernel uses IDs again.

Standard library only: the supervisor uses this too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from venvd_worker.common.process_tree import read_stat

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Identity:
    """One process: `start` is its start time in clock ticks since the boot that `boot` names."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Return whether the process still runs. A zombie does not."""
        stat = read_stat(self.pid)
        return stat is not None and stat.start == self.start and not stat.ended and self.boot == boot_id()


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def identify(pid: int) -> Identity | None:
    """Return the identity of a running process, or None if no process has this ID."""
    stat = read_stat(pid)
    return None if stat is None else Identity(pid, stat.start, boot_id())


def send(target: Identity, number: int) -> bool:
    """Send a signal to this process and no other. Return False if it has ended."""
    try:
        descriptor = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        # check after opening: the descriptor cannot mean another process from here on
        if not target.alive():
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def reap(pid: int) -> None:
    """Reap a process that has ended, if it is a child of this one."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_gone(target: Identity, seconds: float) -> bool:
    """Return whether the process ends within that time."""

    def has_ended() -> bool:
        reap(target.pid)
        return not target.alive()

    return wait_until(has_ended, seconds)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether the condition comes true within that time."""
    end = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.05)
    return True
