"""Process trees: reads them from /proc, and kills one so that no process escapes.

The warden and the local engine's supervisor use this.
"""

from __future__ import annotations

import os
import signal
from typing import Callable, Collection, Dict, Iterable, List, NamedTuple, Optional, Set

from venvd_worker.common.kernel import IN_GVISOR

_MOST_ROUNDS = 1000
"""How often to walk a tree that grows, before killing every process found so far."""


class Stat(NamedTuple):
    """Fields of `/proc/PID/stat`. `start` is in clock ticks since boot. `cpu` includes the times of reaped children."""

    state: str
    parent: int
    start: int
    cpu: int

    @property
    def ended(self) -> bool:
        """Whether the process has ended and its parent has yet to reap it."""
        return self.state in "ZX"


def read_file(path: str) -> bytes:
    """Read a file of the kernel. Return no bytes if the file is absent or its process is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def read_stat(pid: int) -> Optional[Stat]:
    """Read the state of a process, or return None if it is gone."""
    # The name in parentheses may contain anything, even parentheses and spaces.
    fields = read_file("/proc/{}/stat".format(pid)).rpartition(b")")[2].split()
    if not fields:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])))


def list_pids() -> List[int]:
    """List the IDs of all processes that this one can see."""
    return [int(name) for name in _list_directory("/proc") if name.isdigit()]


def list_children(pid: int) -> List[int]:
    """List the children of `pid`, zombies included.

    The kernel may leave some out while others end. `list_all_children` takes longer and misses none.
    """
    if not _LISTED_BY_KERNEL:
        return list_all_children(pid)
    children: List[int] = []
    for task in _list_directory("/proc/{}/task".format(pid)):
        children.extend(map(int, read_file("/proc/{}/task/{}/children".format(pid, task)).split()))
    return children


def list_all_children(pid: int) -> List[int]:
    """List the children of `pid` by a look at every process of the machine."""
    return [child for child, stat in _read_all().items() if stat.parent == pid]


def list_descendants(roots: Iterable[int]) -> List[int]:
    """List `roots` and every process below them, parents before children, zombies included."""
    if _LISTED_BY_KERNEL:
        return _walk(roots, list_children)
    children = _group_by_parent(_read_all())
    return _walk(roots, lambda pid: children.get(pid, []))


def list_below(root: int, spare: Callable[[int], bool] = lambda _: False) -> List[int]:
    """List the running processes below `root` by a look at every process of the machine, parents before children.

    If `spare` is true for a process ID, the list lacks that process and those below it.
    """
    running = {pid: stat for pid, stat in _read_all().items() if not stat.ended}
    children = _group_by_parent(running)
    below = _walk([root], lambda pid: [child for child in children.get(pid, []) if not spare(child)])
    return below[1:]


def kill_tree(roots: Collection[int]) -> None:
    """Kill `roots` and every process below them."""
    _kill(lambda: list_descendants(roots))


def kill_below(root: int, spare: Callable[[int], bool] = lambda _: False) -> None:
    """Kill every process below `root`, except those that `spare` is true for and those below them.

    A process that outlives its parent stays below `root` only if `root` is a child subreaper.
    """
    _kill(lambda: list_below(root, spare))


def _kill(walk: Callable[[], List[int]]) -> None:
    """Stop the processes that `walk` lists until it finds no new one, then kill them. A running one could fork."""
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
    for pid in pids:  # the list grows during the loop
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


_LISTED_BY_KERNEL = os.path.exists("/proc/thread-self/children") and not IN_GVISOR  # gVisor lists threads as children
