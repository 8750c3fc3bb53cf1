"""The peer of a Unix socket: its user, and whether it is still connected."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from pathlib import Path

from venvd_contract.errors import Cancelled, Forbidden

_CREDENTIALS = struct.Struct("3i")


def read_user_id(connection: socket.socket) -> int:
    """Return the user ID of the process that connected, as the kernel of this machine knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def find_allowed_users(
    configured: frozenset[int] | str | None, directory: Path, *, token: bool
) -> frozenset[int] | None:
    """Return the user IDs to serve; None is any.

    Without a setting, a backend with a token serves every user. A backend without a token serves root, the user of this
    process, and the owner of the sockets' directory. That owner is the controller: in a container, this process has
    another user ID, and peers have the IDs of the host.
    """
    if isinstance(configured, frozenset):
        return configured
    if configured == "any" or token:
        return None
    return frozenset({0, os.geteuid(), directory.stat().st_uid})


def check_user(connection: socket.socket, uids: frozenset[int] | None) -> None:
    """Check that the peer's user is one of `uids`.

    Raises:
        Forbidden: it is not.
    """
    if uids is None:
        return
    uid = read_user_id(connection)
    if uid not in uids:
        raise Forbidden(f"user ID {uid} may not use this socket (VENVD_SOCKET_UIDS names those that may)")


async def send_descriptor(connection: int, data: bytes, descriptor: int, pause: float) -> int:
    """Write `data` with a descriptor, with a `pause` between tries; return the number of written bytes.

    Raises:
        Cancelled: the client went away.
    """
    own = socket.socket(fileno=os.dup(connection))
    try:
        while True:
            try:
                return socket.send_fds(own, [data], [descriptor])
            except BlockingIOError:
                await asyncio.sleep(pause)
            except OSError as error:
                raise Cancelled(f"the client went away ({error.strerror})") from None
    finally:
        own.close()


def hung_up(descriptor: int) -> bool:
    """Whether the peer has closed both directions; a peer that has only ended its side still reads replies."""
    watch = select.poll()
    watch.register(descriptor, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in watch.poll(0))
