"""Packets of JSON with descriptors, over `SOCK_SEQPACKET`: to the server, and between warden and session."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

LARGEST_PACKET = 256 * 1024
MOST_DESCRIPTORS = 4

_SPACE = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class InvalidPacket(Exception):
    """What came is no packet of the protocol."""


class TruncatedPacket(InvalidPacket):
    """A packet whose descriptors this process has no room for; `message` is what it said."""

    def __init__(self, message: Dict[str, Any]) -> None:
        super().__init__("there is no room for the descriptors of a packet")
        self.message = message


class Packet(NamedTuple):
    """One packet; who takes it owns its descriptors."""

    message: Dict[str, Any]
    descriptors: List[int]


class Control:
    """One end of a control connection; never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._unsent: Deque[Tuple[bytes, List[int]]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        while self._unsent:
            close_all(self._unsent.popleft()[1])

    @property
    def blocked(self) -> bool:
        """Whether something waits until the peer reads."""
        return bool(self._unsent)

    def send(self, message: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a packet, now or as soon as the peer reads; the descriptors are closed here afterwards."""
        self._unsent.append((_encode(message).encode(), list(descriptors)))
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it; what a gone peer was to get is dropped."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                self._sock.sendmsg([data], _rights(descriptors))
            except BlockingIOError:
                return
            except OSError:
                pass
            self._unsent.popleft()
            close_all(descriptors)

    def receive(self) -> Optional[Packet]:
        """The next packet, or None while there is none.

        Raises:
            EOFError: the peer is gone.
            InvalidPacket: it sent what is no JSON object, or more than a packet may hold.
            TruncatedPacket: there was no room for its descriptors.
        """
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(LARGEST_PACKET, _SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError(str(error)) from None
        descriptors = _descriptors(ancillary)
        try:
            return Packet(_message(data, flags), descriptors)
        except (InvalidPacket, EOFError):
            close_all(descriptors)
            raise


def _rights(descriptors: List[int]) -> List[Tuple[int, int, bytes]]:
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def _descriptors(ancillary: List[Tuple[int, int, bytes]]) -> List[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _message(data: bytes, flags: int) -> Dict[str, Any]:
    if not data:
        raise EOFError("the peer went away")
    if flags & socket.MSG_TRUNC:
        raise InvalidPacket("a packet holds more than {} bytes".format(LARGEST_PACKET))
    try:
        message = _decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidPacket("a packet is not JSON: {}".format(error)) from None
    if type(message) is not dict:
        raise InvalidPacket("a packet must hold a JSON object")
    if flags & socket.MSG_CTRUNC:
        raise TruncatedPacket(message)
    return message


def pair() -> Tuple[Control, socket.socket]:
    """Two ends of a new control connection: one to use here, one to hand on."""
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Control(mine), other


def wait_for_packet(own: Control) -> Packet:
    """The next packet, however long it takes.

    Raises:
        EOFError, InvalidPacket: as `receive` does.
    """
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    packet = None
    while packet is None:
        poll.poll()
        packet = own.receive()
    return packet


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass
