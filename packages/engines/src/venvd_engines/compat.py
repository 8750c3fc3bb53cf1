"""Pipes by name, for clients of an older .NET host.

On Unix, .NET opens the pipe `NAME` as the socket `CoreFxPipe_NAME` in the temporary directory. There, venvd makes a
symbolic link to the socket of the backend. `connect` follows it, so the kernel checks the permissions of the socket and
of its directory. With a hard link it would not check those of the directory.

If others may write to the directory too, as in `/tmp`, the kernel follows a link only for the link's owner, or if the
directory's owner owns it (`fs.protected_symlinks`).
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable

_PREFIX = "CoreFxPipe_"
_MAX_PATH_BYTES = 107
"""The kernel's limit for a socket's path."""


def find_link(directory: Path, pipe_name: str) -> Path:
    """Return the path of a pipe's link.

    Raises:
        InvalidRequest: the path is too long for a socket.
    """
    link = directory / f"{_PREFIX}{pipe_name}"
    size = len(os.fsencode(link))
    if size > _MAX_PATH_BYTES:
        raise InvalidRequest(
            f"pipeName: {link} has {size} bytes, and the path of a socket has at most {_MAX_PATH_BYTES}: choose a "
            "shorter name, or set VENVD_PIPE_NAME_DIR to the shorter directory that is TMPDIR of the clients"
        )
    return link


def make_link(link: Path, socket: Path, *, for_all: bool = True) -> None:
    """Link a pipe's name to its socket.

    This replaces a link to a missing directory. Such a link stays if someone removes a home while its backends run.

    Args:
        link: as of `find_link`.
        socket: the path of the socket; it need not exist yet.
        for_all: whether all users must be able to follow the link, or only this process's user.

    Raises:
        Conflict: the name is in use.
        PermissionError: this process cannot make such a link there.
        Unavailable: there is no such directory.
    """
    old = read_link(link, socket)
    if old == socket:
        return
    try:
        owner = link.parent.stat()
    except OSError as error:
        raise Unavailable(f"pipeName: {link.parent} cannot be used: {error.strerror} (VENVD_PIPE_NAME_DIR)") from None
    shared = owner.st_mode & stat.S_ISVTX and owner.st_mode & stat.S_IWOTH
    if for_all and shared and os.geteuid() not in {0, owner.st_uid}:
        raise PermissionError(f"only root makes links in {link.parent} that all users can follow")
    if old is not None:
        link.unlink(missing_ok=True)
    try:
        link.symlink_to(socket)
    except FileExistsError:
        raise Conflict(describe_use(link)) from None
    if shared and os.geteuid() == 0:
        os.lchown(link, owner.st_uid, -1)


def read_link(link: Path, socket: Path) -> Path | None:
    """Return where an existing link leads; None if there is none.

    A link is in use as long as the directory of its socket exists. The directory comes and goes with a backend.

    Raises:
        Conflict: the name is in use.
    """
    try:
        target = link.readlink()
    except FileNotFoundError:
        return None
    except OSError:  # no link
        raise Conflict(describe_use(link)) from None
    if target != socket and _exists(target.parent):
        raise Conflict(f"{describe_use(link)}; it leads to {target}")
    return target


def remove_link(link: Path, socket: Path) -> None:
    """Remove a link that leads to `socket`. Another link stays, and a missing link is not an error.

    Raises:
        PermissionError: this process may not.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if link.is_symlink() and link.readlink() == socket:
            link.unlink()


def _exists(directory: Path) -> bool:
    try:
        directory.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # another user's
        return True
    return True


def describe_use(link: Path) -> str:
    """Return the message of an error about a name that is in use."""
    name = link.name.removeprefix(_PREFIX)
    return f'pipeName: the name "{name}" is in use: {link} exists; choose another name'
