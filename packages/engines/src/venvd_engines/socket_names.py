"""The names of the sockets of pipe backends. An update leads the name for clients from one launch to another.

The first launch of a backend listens at the name for clients. A launch beside it listens at its own name. Then the
name for clients becomes a link to the new launch. If the former launch listened at that name, it now gets its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from venvd_contract.errors import Unavailable
from venvd_engines.engine import Launch

PIPE, PROBES = "pipe.sock", "http.sock"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def choose_prefix(launch: Launch) -> str:
    """Choose the prefix of the names at which a launch listens."""
    return f"{launch.id}-" if launch.beside else ""


def find_own_socket(directory: Path, launch_id: str) -> Path:
    """Return the path that leads only to this launch, once another one has taken the name for clients."""
    return directory / f"{launch_id}-{PIPE}"


def take_name(directory: Path, launch_id: str, former_id: str) -> None:
    """Lead the name for clients to a launch that listens at its own name. It always leads to one of the two.

    Raises:
        Unavailable: the directory cannot be changed, or the launch does not listen.
    """
    main, own = directory / PIPE, find_own_socket(directory, launch_id)
    try:
        if main.is_symlink() and main.readlink() == Path(own.name):
            return
        if not own.is_socket():
            raise Unavailable(f"no server listens at {own}")
        # the former launch's own name, if it listens at the name for clients: it gets this one in exchange
        name = find_own_socket(directory, former_id) if main.is_socket() and not main.is_symlink() else None
        link = name or directory / f"{launch_id}-link"
        link.unlink(missing_ok=True)
        link.symlink_to(own.name)
        if name is None:
            link.replace(main)
        else:
            _exchange(link, main)
    except OSError as error:
        raise Unavailable(f"{main} cannot be led to another launch: {error.strerror}") from None


def _exchange(link: Path, main: Path) -> None:
    """Exchange two names at once. If the file system cannot, `main` is absent for a moment."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(link), _AT_FDCWD, os.fsencode(main), _RENAME_EXCHANGE) == 0:
        return
    target = link.readlink()
    main.rename(link)
    main.symlink_to(target)


def remove_own_names(directory: Path, launch_id: str) -> None:
    """Remove the names that a launch had for itself, while another one uses the directory."""
    with contextlib.suppress(OSError):
        for name in (PIPE, PROBES):
            (directory / f"{launch_id}-{name}").unlink(missing_ok=True)
