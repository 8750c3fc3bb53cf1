"""Who is at the other end of a Unix socket, and when it is gone."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from pathlib import Path

from venvd_contract.errors import Cancelled, Forbidden

_CREDENTIALS = struct.Struct("3i")


def user_id(connection: socket.socket) -> int:
    """The user ID of the process that connected, as the kernel of this machine knows it."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def allowed(configured: frozenset[int] | str | None, directory: Path, *, token: bool) -> frozenset[int] | None:
    """The user IDs to serve; None is any.

    Without a setting a token is guard enough. Where there is none: this process's own user, root, and the owner of the
    sockets' directory. That one is whoever made the run directory, hence who runs the controller; in a container this
    process's own ID is another one, while peers show the host's.
    """
    if isinstance(configured, frozenset):
        return configured
    if configured == "any" or token:
        return None
    return frozenset({0, os.geteuid(), directory.stat().st_uid})


def check(connection: socket.socket, uids: frozenset[int] | None) -> None:
    """Raises:
    Forbidden: the peer's user is not one of `uids`.
    """
    if uids is None:
        return
    uid = user_id(connection)
    if uid not in uids:
        raise Forbidden(f"user ID {uid} may not use this socket (VENVD_SOCKET_UIDS names those that may)")


async def hand(connection: int, data: bytes, descriptor: int, pause: float) -> int:
    """Write `data` with a descriptor, as soon as that can be; how many bytes were taken."""
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
    """Whether the peer has closed both directions; a peer that only ended its writing still reads replies."""
    watch = select.poll()
    watch.register(descriptor, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in watch.poll(0))
