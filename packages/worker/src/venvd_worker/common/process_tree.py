"""The tree of processes below one process: walking it, and ending it so that nothing slips away."""

from __future__ import annotations

import os
import signal
from typing import Collection, Dict, Iterable, List, Set

_MOST_ROUNDS = 1000
"""How often a tree is walked again because it grew; a tree that still grows then is killed as far as it is known."""


def list_children(pid: int) -> List[int]:
    """The processes whose parent is `pid`, zombies included.

    The kernel may leave some out while others end; `list_all_children` takes longer and does not.
    """
    if not _LISTED_BY_KERNEL:
        return _parents().get(pid, [])
    found: List[int] = []
    for task in _entries("/proc/{}/task".format(pid)):
        found.extend(map(int, read_file("/proc/{}/task/{}/children".format(pid, task)).split()))
    return found


def list_all_children(pid: int) -> List[int]:
    """The same, read off every process of the machine."""
    return _parents().get(pid, [])


def list_descendants(roots: Iterable[int]) -> List[int]:
    """`roots` and every process below them, parents before children."""
    table = None if _LISTED_BY_KERNEL else _parents()
    found = list(dict.fromkeys(roots))
    seen = set(found)
    for pid in found:  # grows while it is walked
        for child in list_children(pid) if table is None else table.get(pid, []):
            if child not in seen:
                seen.add(child)
                found.append(child)
    return found


def kill_tree(roots: Collection[int]) -> None:
    """Kill `roots` and every process below them.

    All are stopped first, until a walk finds no new one: a process that still ran could fork in between.
    """
    stopped: Set[int] = set()
    for _ in range(_MOST_ROUNDS):
        fresh = [pid for pid in list_descendants(roots) if pid not in stopped]
        if not fresh:
            break
        for pid in fresh:
            send_signal(pid, signal.SIGSTOP)
            stopped.add(pid)
    for pid in stopped:
        send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except OSError:
        pass


def send_group_signal(group: int, number: int) -> None:
    """Send a signal to a process group that may be gone."""
    try:
        os.killpg(group, number)
    except OSError:
        pass


def read_file(path: str) -> bytes:
    """A file below `/proc`; empty where its process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def read_stat(pid: int) -> List[bytes]:
    """`/proc/PID/stat` from the state on: state, parent, group, …; empty where the process is gone."""
    # The name in parentheses may hold anything, parentheses and spaces included.
    return read_file("/proc/{}/stat".format(pid)).rpartition(b")")[2].split()


def _entries(path: str) -> List[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _parents() -> Dict[int, List[int]]:
    """The children of every process, for kernels that do not list them."""
    found: Dict[int, List[int]] = {}
    for name in _entries("/proc"):
        fields = read_stat(int(name)) if name.isdigit() else []
        if fields:
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


_LISTED_BY_KERNEL = os.path.exists("/proc/thread-self/children")
