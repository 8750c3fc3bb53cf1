"""Control connections: from the server to the warden, and from the warden to each process that it starts."""

from __future__ import annotations

import errno
import json
import select
import socket
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from venvd_contract.internal.control import LARGEST_PACKET, SEND, close_descriptors, receive, rights

_encoder = json.JSONEncoder(separators=(",", ":"))
_decode = json.JSONDecoder().decode


def encode(message: Dict[str, Any]) -> bytes:
    """Encode a message as the bytes of a packet."""
    return _encoder.encode(message).encode()


class InvalidPacket(Exception):
    """The peer sent something that is not a packet of the protocol."""


class TruncatedPacket(InvalidPacket):
    """The process had no room for the descriptors of a packet; `message` is its JSON."""

    def __init__(self, message: Dict[str, Any]) -> None:
        super().__init__("there is no room for the descriptors of a packet")
        self.message = message


class Packet(NamedTuple):
    """One packet. The receiver owns its descriptors."""

    message: Dict[str, Any]
    descriptors: List[int]


class ControlConnection:
    """One end of a control connection. It never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent: Deque[Tuple[bytes, List[int]]] = deque()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        while self._unsent:
            close_descriptors(self._unsent.popleft()[1])

    @property
    def blocked(self) -> bool:
        """Whether packets wait until the peer reads."""
        return bool(self._unsent)

    def send(self, message: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a packet now, or when the peer reads. Close the descriptors here once they are sent.

        Raises:
            OSError: this user has too many descriptors in flight; the packet is dropped.
        """
        self.send_encoded(encode(message), descriptors)

    def send_encoded(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send an encoded message as `send` does.

        Raises:
            OSError: as `send`.
        """
        self._unsent.append((data, list(descriptors)))
        self.flush()

    def flush(self) -> None:
        """Send waiting packets until the peer takes no more; drop them if the peer is gone.

        Raises:
            OSError: as `send`.
        """
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                self._sock.sendmsg([data], rights(descriptors), SEND)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    self._unsent.popleft()
                    close_descriptors(descriptors)
                    raise
            self._unsent.popleft()
            close_descriptors(descriptors)

    def receive(self) -> Optional[Packet]:
        """Return the next packet, or None if there is none yet.

        Raises:
            EOFError: the peer is gone.
            InvalidPacket: the packet is not a JSON object, or too large.
            TruncatedPacket: this process had no room for its descriptors.
        """
        try:
            data, descriptors, truncated, descriptors_lost = receive(self._sock)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError(str(error)) from None
        try:
            return Packet(_parse(data, truncated, descriptors_lost), descriptors)
        except (InvalidPacket, EOFError):
            close_descriptors(descriptors)
            raise


def _parse(data: bytes, truncated: bool, descriptors_lost: bool) -> Dict[str, Any]:
    if not data:
        raise EOFError("the peer went away")
    if truncated:
        raise InvalidPacket("a packet holds more than {} bytes".format(LARGEST_PACKET))
    try:
        message = _decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidPacket("a packet is not JSON: {}".format(error)) from None
    if type(message) is not dict:
        raise InvalidPacket("a packet must hold a JSON object")
    if descriptors_lost:
        raise TruncatedPacket(message)
    return message


def adopt(descriptor: int) -> ControlConnection:
    """Return a control connection over a descriptor that another process made."""
    return ControlConnection(socket.socket(fileno=descriptor))


def make_pair() -> Tuple[ControlConnection, socket.socket]:
    """Make a control connection; return the end to use here and the end to pass on."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ControlConnection(own), other


def wait_for_packet(connection: ControlConnection) -> Packet:
    """Wait for the next packet and return it.

    Raises:
        EOFError, InvalidPacket: as `receive` does.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    packet = None
    while packet is None:
        poll.poll()
        packet = connection.receive()
    return packet
