"""Process trees: reading them from /proc, and killing one so that no process escapes.

The warden and the local engine's supervisor use this.
"""

from __future__ import annotations

import os
import signal
from typing import Callable, Collection, Dict, Iterable, List, NamedTuple, Optional, Set

from venvd_worker.common.kernel import IN_GVISOR

_MOST_ROUNDS = 1000
"""How often a tree that grows is walked again; then every process that was found is killed."""


class Stat(NamedTuple):
    """Fields of `/proc/PID/stat`; `start` is in clock ticks since boot, `cpu` adds the times of reaped children."""

    state: str
    parent: int
    start: int
    cpu: int

    @property
    def ended(self) -> bool:
        """Whether the process ended and only waits to be reaped."""
        return self.state in "ZX"


def read_file(path: str) -> bytes:
    """Read a file of the kernel; empty where it is not there, or its process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def read_stat(pid: int) -> Optional[Stat]:
    """Read the state of a process; None where it is gone."""
    # The name in parentheses may hold anything, parentheses and spaces included.
    fields = read_file("/proc/{}/stat".format(pid)).rpartition(b")")[2].split()
    if not fields:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])))


def list_pids() -> List[int]:
    """Every process that this one can see."""
    return [int(name) for name in _list_directory("/proc") if name.isdigit()]


def list_children(pid: int) -> List[int]:
    """The children of `pid`, zombies included.

    The kernel may leave some out while others end; `list_all_children` takes longer and does not.
    """
    if not _LISTED_BY_KERNEL:
        return list_all_children(pid)
    children: List[int] = []
    for task in _list_directory("/proc/{}/task".format(pid)):
        children.extend(map(int, read_file("/proc/{}/task/{}/children".format(pid, task)).split()))
    return children


def list_all_children(pid: int) -> List[int]:
    """The same as `list_children`, read off every process of the machine."""
    return [child for child, stat in _read_all().items() if stat.parent == pid]


def list_descendants(roots: Iterable[int]) -> List[int]:
    """`roots` and every process below them, parents before children, zombies included."""
    if _LISTED_BY_KERNEL:
        return _walk(roots, list_children)
    children = _group_by_parent(_read_all())
    return _walk(roots, lambda pid: children.get(pid, []))


def list_below(root: int, spare: Callable[[int], bool] = lambda _: False) -> List[int]:
    """Every running process below `root`, read off every process of the machine, parents before children.

    Where `spare` is true for a process ID, that process and those below it are left out.
    """
    running = {pid: stat for pid, stat in _read_all().items() if not stat.ended}
    children = _group_by_parent(running)
    below = _walk([root], lambda pid: [child for child in children.get(pid, []) if not spare(child)])
    return below[1:]


def kill_tree(roots: Collection[int]) -> None:
    """Kill `roots` and every process below them."""
    _kill(lambda: list_descendants(roots))


def kill_below(root: int, spare: Callable[[int], bool] = lambda _: False) -> None:
    """Kill every process below `root`, but those that `spare` names and those below them.

    A process that leaves its parent stays below `root` only where `root` is a child subreaper.
    """
    _kill(lambda: list_below(root, spare))


def _kill(walk: Callable[[], List[int]]) -> None:
    """Stop all processes of a walk until it finds no new one, then kill them: one that still runs could fork."""
    stopped: Set[int] = set()
    for _ in range(_MOST_ROUNDS):
        fresh = [pid for pid in walk() if pid not in stopped]
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


def _walk(roots: Iterable[int], list_children_of: Callable[[int], List[int]]) -> List[int]:
    pids = list(dict.fromkeys(roots))
    seen = set(pids)
    for pid in pids:  # grows while it is walked
        for child in list_children_of(pid):
            if child not in seen:
                seen.add(child)
                pids.append(child)
    return pids


def _read_all() -> Dict[int, Stat]:
    stats = ((pid, read_stat(pid)) for pid in list_pids())
    return {pid: stat for pid, stat in stats if stat is not None}


def _group_by_parent(stats: Dict[int, Stat]) -> Dict[int, List[int]]:
    children: Dict[int, List[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    return children


def _list_directory(path: str) -> List[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


_LISTED_BY_KERNEL = os.path.exists("/proc/thread-self/children") and not IN_GVISOR  # there, threads are among them
