"""The sockets in the file system: their place, mode and owner."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable
from venvd_pipe_backend.settings import PipeSettings

LONGEST_PATH = 107
"""Bytes that the kernel has for the path of a Unix socket."""
BACKLOG = 4096


def listen(settings: PipeSettings, name: str) -> socket.socket:
    """A listening socket with the mode and owner of the settings; nobody can connect before it has them.

    The name is taken from a socket that nobody serves any more.

    Raises:
        InvalidRequest: the path is too long.
        Conflict: another server answers there.
        Unavailable: the directory cannot be written to, or the owner cannot be set.
    """
    path = settings.socket_dir / name
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidRequest(f"{path} is longer than the {LONGEST_PATH} bytes that the path of a socket may have")
    if answers(path):
        raise Conflict(f"another server answers at {path}")
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777)
    try:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        if settings.socket_owner is not None or settings.socket_group is not None:
            os.chown(path, _or_same(settings.socket_owner), _or_same(settings.socket_group))
        listener.listen(BACKLOG)
        path.chmod(settings.socket_mode)
    except OSError as error:
        listener.close()
        raise Unavailable(f"{path} cannot be served: {error}") from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(os.fspath(path))
        except OSError:
            return False
    return True


def remove(settings: PipeSettings, name: str) -> None:
    """Take the name away; nothing where it is gone."""
    with contextlib.suppress(OSError):
        (settings.socket_dir / name).unlink(missing_ok=True)


def _or_same(number: int | None) -> int:
    return -1 if number is None else number
