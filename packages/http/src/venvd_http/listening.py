"""Listening sockets: TCP ports and Unix sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable

BACKLOG = 4096
LONGEST_PATH = 107
"""The kernel's limit on the path of a Unix socket, in bytes."""


def listen_tcp(host: str, port: int, hint: str = "") -> socket.socket:
    """Return a listening TCP socket; port 0 picks a free one.

    `host` is an address of this machine, IPv4 or IPv6. The message of an error ends with `hint`.

    Raises:
        Conflict: the port is in use, or the address belongs to another machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Conflict(f"{host}:{port} cannot be listened on: {error.strerror or error}{hint}") from None
    listener.setblocking(False)
    return listener


def listen_unix(path: Path, mode: int, owner: int | None = None, group: int | None = None) -> socket.socket:
    """Return a listening Unix socket. Clients can connect only after it has its mode and its owner.

    A socket on which no server listens is replaced. An owner or group of None is not changed.

    Raises:
        InvalidRequest: the path is too long.
        Conflict: another server answers there.
        Unavailable: the directory cannot be written to, or the owner cannot be set.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidRequest(f"{path} is longer than {LONGEST_PATH} bytes, the limit on the path of a socket")
    if _is_answered(path):
        raise Conflict(f"another server answers at {path}")
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777)
    try:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        if owner is not None or group is not None:
            os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
        listener.listen(BACKLOG)
        path.chmod(mode)
    except OSError as error:
        listener.close()
        raise Unavailable(f"{path} cannot be served: {error}") from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def remove_name(path: Path) -> None:
    """Remove the name of a Unix socket, if it is there."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(os.fspath(path))
        except OSError:
            return False
    return True
