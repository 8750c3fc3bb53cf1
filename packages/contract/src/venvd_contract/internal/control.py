"""Packets of the control connection: one JSON object each, with descriptors as `SCM_RIGHTS`, over `SOCK_SEQPACKET`.

A request is `{"id", "command", "data"}`. Its reply is `{"id", "result"}` or `{"id", "error", "code"}`. An event is
`{"event", "data"}`. `messages` declares commands and events.
"""

from __future__ import annotations

import array
import os
import socket
from typing import List, NamedTuple, Sequence, Tuple

LARGEST_PACKET = 256 * 1024
"""Bytes."""
MOST_DESCRIPTORS = 8
SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""Flags of every `sendmsg`: a descriptor may be shared with a process that makes it blocking."""

# Numbers, since operations of enumerations run much Python.
_RECEIVE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_SOCKET_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_TRUNCATED, _DESCRIPTORS_LOST = int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)
_SPACE = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


class AttachTerms(NamedTuple):
    """The direct client that `attach` announces to a session; `timeout` is in seconds, 0 for none.

    Attributes:
        connection: the server's number for this connection, from 1 on.
        session: the session's ID; requests that name another one are refused.
        cancel: the running call is cancelled when the client goes away.
    """

    connection: int
    session: str
    timeout: float
    max_line: int
    max_attachment_bytes: int
    cancel: bool


class RawPacket(NamedTuple):
    """One packet as it came. The receiver owns the descriptors.

    Attributes:
        data: empty where the peer closed the connection.
        truncated: the packet was longer than `LARGEST_PACKET`.
        descriptors_lost: there was no room for all descriptors.
    """

    data: bytes
    descriptors: List[int]
    truncated: bool
    descriptors_lost: bool


def receive(sock: socket.socket, *, space: int = _SPACE) -> RawPacket:
    """Receive the next packet, with descriptors if there is `space` for them.

    Raises:
        BlockingIOError: there is none yet.
        OSError: the connection failed.
    """
    data, ancillary, flags, _ = sock.recvmsg(LARGEST_PACKET, space, _RECEIVE)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == _SOCKET_LEVEL and kind == _RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return RawPacket(data, descriptors.tolist(), bool(flags & _TRUNCATED), bool(flags & _DESCRIPTORS_LOST))


def receive_data(sock: socket.socket) -> RawPacket:
    """Receive the next packet without its descriptors, as the server does: none travels towards it.

    Raises:
        BlockingIOError, OSError: as `receive`.
    """
    return receive(sock, space=0)


def rights(descriptors: Sequence[int]) -> List[Tuple[int, int, bytes]]:
    """The ancillary data of `sendmsg` that passes `descriptors` on."""
    if not descriptors:
        return []
    return [(_SOCKET_LEVEL, _RIGHTS, array.array("i", descriptors).tobytes())]


def close_descriptors(descriptors: Sequence[int]) -> None:
    """Close each; one that is closed already is no error."""
    for descriptor in descriptors:
        try:  # noqa: SIM105 - `suppress` runs more Python, in each fork
            os.close(descriptor)
        except OSError:
            pass
