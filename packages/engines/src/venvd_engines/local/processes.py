"""Processes by identity: a process ID means nothing once its process is gone, so its start time goes with it.

Standard library only: the keeper, which stands beside user code, uses this too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ROUNDS = 100
"""How often a tree is walked while it grows; each round stops all that it found."""


@dataclass(frozen=True)
class Identity:
    """One process: `start` is its start in clock ticks since the boot that `boot` names."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Whether it still runs; one that ended and was not reaped does not."""
        found = _stat(self.pid)
        return found is not None and found.start == self.start and found.state not in "ZX" and self.boot == boot_id()


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    start: int


def boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a process that runs now; None where there is none."""
    found = _stat(pid)
    return None if found is None else Identity(pid, found.start, boot_id())


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # the name of the program, in parentheses, may hold anything
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def send(target: Identity, number: int) -> bool:
    """Send a signal to that very process; False where it is gone."""
    try:
        descriptor = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        # checked after opening: from here on the descriptor cannot come to mean another process
        if not target.alive():
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def reap(pid: int) -> None:
    """Take away what is left of an ended process, if it was a child of this one."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_gone(target: Identity, seconds: float) -> bool:
    """Whether the process ended within that time."""

    def gone() -> bool:
        reap(target.pid)
        return not target.alive()

    return wait_until(gone, seconds)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within that time."""
    end = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.05)
    return True


def pids() -> list[int]:
    """The ID of every process that can be seen."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def descendants(root: int) -> Iterator[int]:
    """Every process below `root`, parents first."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        if (found := _stat(pid)) is not None and found.state not in "ZX":
            children.setdefault(found.parent, []).append(pid)
    waiting = children.get(root, [])
    while waiting:
        pid = waiting.pop(0)
        yield pid
        waiting.extend(children.get(pid, []))


def kill_below(root: int, spare: Callable[[int], bool] = lambda _: False) -> None:
    """End every process below `root`, however fast they multiply.

    Each is stopped until no new one appears, then all are killed: a process that is stopped forks no more. Processes
    that leave their parent stay below `root` only where `root` is a child subreaper.

    Args:
        root: stays as it is.
        spare: told a process ID; true leaves that process and what is below it.
    """
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        kept = _spared(root, spare)
        found = {pid for pid in descendants(root) if pid not in kept} - stopped
        if not found:
            break
        for pid in found:
            _signal(pid, signal.SIGSTOP)
        stopped |= found
    for pid in stopped:
        _signal(pid, signal.SIGKILL)


def _spared(root: int, spare: Callable[[int], bool]) -> set[int]:
    kept: set[int] = set()
    for pid in descendants(root):
        if spare(pid):
            kept |= {pid, *descendants(pid)}
    return kept


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def how_ended(status: int) -> str:
    """A sentence's end for the status of `os.waitpid`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a real-time signal"
    return f"was killed by signal {-code} ({name})"
