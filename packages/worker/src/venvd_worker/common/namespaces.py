"""Namespaces around a session, for kernels that let a process without rights make them: gVisor, which lacks Landlock.

A session is the first process of a PID namespace. So it sees and signals only its own processes. Its mount namespace
covers the directories that it must not see, and has its own `/dev/shm` and `/proc`. The kernel locks these mounts: a
session cannot uncover anything in further namespaces that it makes.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import List, Optional, Sequence

from venvd_worker.common import kernel

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where the C library has it
_PROCESSES = "/proc"
_COVER = "size=64k,nr_inodes=64,mode=711"
_HELD = 42


@dataclass(frozen=True)
class Covers:
    """The directories that a session does not see.

    Attributes:
        hidden: directories of which the session sees only what `kept` names.
        kept: files and directories that the session still sees, below a hidden directory or elsewhere.
    """

    hidden: Sequence[str] = ()
    kept: Sequence[str] = ()


def enter() -> None:
    """Make new namespaces. The next fork of this process is the first process in them. After it, this process ends.

    Raises:
        OSError: the kernel refuses.
    """
    user, group = os.getuid(), os.getgid()
    kernel.show_memory()  # while its memory is hidden, a process cannot write these files
    kernel.make_namespaces()
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", "{0} {0} 1".format(user)),
        ("gid_map", "{0} {0} 1".format(group)),
    ):
        with open("/proc/self/" + name, "w", encoding="ascii") as file:
            file.write(text)


def fork() -> int:
    """Fork a child in new namespaces. As `os.fork` does, return the child's ID in the parent and 0 in the child.

    Raises:
        OSError: the kernel makes no process, or refuses the namespaces.
    """
    read_end, write_end = os.pipe()
    middle = os.fork()
    if middle:
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(middle, 0)  # from here on, this process is the parent of the child
        if not answer:
            raise OSError(errno.EPERM, "the kernel makes no namespaces for a session")
        return int(answer)
    try:
        os.close(read_end)
        enter()
        child = os.fork()
        if not child:
            os.close(write_end)
            return 0
        os.write(write_end, b"%d" % child)
    except OSError:
        pass
    os._exit(0)


def close_in(covers: Covers, root: Optional[str]) -> None:
    """Hide directories from this process, and give up the right to uncover them.

    This process must be the first one in its namespaces.

    Args:
        covers: what to hide.
        root: the directory of the session, which becomes the working directory; None for none.

    Raises:
        OSError: the kernel refuses.
    """
    own = [] if root is None else [root]
    kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*covers.kept, *own) if os.path.exists(path)}
    shared = os.statvfs(SHARED_MEMORY)
    for place in _list_outermost(covers.hidden):
        inside = [path for path in kept if path == place or path.startswith(place + "/")]
        if place in inside or not os.path.isdir(place):
            continue
        kernel.mount("tmpfs", place, "tmpfs", options=_COVER)
        for path in _list_outermost(inside):
            _make_place(path, directory=os.path.isdir("/proc/self/fd/{}".format(kept[path])))
            kernel.bind("/proc/self/fd/{}".format(kept[path]), path)
        kernel.make_read_only(place)
    size = "size={},mode=1777".format(shared.f_blocks * shared.f_frsize)
    kernel.mount("tmpfs", SHARED_MEMORY, "tmpfs", options=size)
    kernel.mount("proc", _PROCESSES, "proc")
    for descriptor in kept.values():
        os.close(descriptor)
    kernel.forbid_new_privileges()
    kernel.limit_capabilities()
    kernel.drop_capabilities()
    if root is not None:
        os.chdir(root)


def hold(covers: Covers) -> bool:
    """Return whether this kernel makes such namespaces. A child process tries it and checks what it sees."""
    try:
        child = fork()
    except OSError:
        return False
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == _HELD
    status = 1
    try:
        close_in(covers, None)
        alone = [name for name in os.listdir(_PROCESSES) if name.isdigit()] == ["1"]
        if alone and os.getpid() == 1 and os.listdir(SHARED_MEMORY) == []:
            status = _HELD
    finally:
        os._exit(status)


def _list_outermost(paths: Sequence[str]) -> List[str]:
    """List the paths that are below no other one."""
    outermost: List[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if not outermost or not path.startswith(outermost[-1].rstrip("/") + "/"):
            outermost.append(path)
    return outermost


def _make_place(path: str, *, directory: bool) -> None:
    """Make an empty file or directory as the target of `kernel.bind`."""
    os.makedirs(path if directory else os.path.dirname(path), mode=0o711, exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
