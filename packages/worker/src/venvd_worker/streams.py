"""A stream of requests and replies in the framing of the pipe."""

from __future__ import annotations

import _thread
import socket
from array import array
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from venvd_contract.errors import TooLarge
from venvd_contract.framing import Buffer, attachment_sizes, parse_line
from venvd_worker.replies import Package, Reply

_CHUNK = 64 * 1024  # larger ones malloc maps and unmaps for every call


class Request(NamedTuple):
    """One request as it came, with its attachments."""

    message: Dict[str, Any]
    attachments: Sequence[bytes]
    peer: Any = None
    """Who is at the other end."""


class Stream:
    """One end of a connection.

    Attributes:
        unreadable: a line was too long, and where the next one begins is not known.
        peer: who is at the other end, as its requests say.
    """

    def __init__(self, descriptor: int, peer: Any = None) -> None:
        self._sock = socket.socket(fileno=descriptor)
        self._sock.setblocking(True)
        self._buffer = Buffer()
        self._lock = _thread.allocate_lock()
        self.unreadable = False
        self.peer = peer
        self._message: Optional[Dict[str, Any]] = None
        self._missing: List[int] = []
        self._attachments: List[bytes] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def requests(self) -> Iterator[Request]:
        """Read what is there, and yield the requests that are complete.

        Raises:
            EOFError: the peer is gone.
            InvalidRequest, TooLarge: a line is no request; the next one can be read, unless the stream is `unreadable`.
        """
        try:
            data = self._sock.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError("the peer went away")
        if self._is_one_line(data):
            message = parse_line(data[:-1])
            if "attachments" not in message:
                yield Request(message, (), self.peer)
                return
        self._buffer.feed(data)
        yield from self.waiting()

    def waiting(self) -> Iterator[Request]:
        """The complete requests among what was read already."""
        while self._next_message() and self._take_attachments():
            message, self._message = self._message or {}, None
            attachments, self._attachments = self._attachments, []
            yield Request(message, attachments, self.peer)

    def send(self, data: Reply) -> None:
        """Send one or more whole lines, or one with what goes along.

        Raises:
            EOFError: the peer is gone.
        """
        with self._lock:
            try:
                if isinstance(data, bytes):
                    self._sock.sendall(data)
                else:
                    self._send_package(data)
            except ConnectionError as error:
                raise EOFError(str(error)) from None

    def _send_package(self, package: Package) -> None:
        line = memoryview(package.line)
        if package.descriptors:
            rights = array("i", package.descriptors).tobytes()
            line = line[self._sock.sendmsg([line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]) :]
        self._sock.sendall(line)
        for part in package.attachments:
            self._sock.sendall(part)

    def _is_one_line(self, data: bytes) -> bool:
        """Whether this is exactly one line, as it nearly always is: then it need not go through the buffer."""
        alone = self._message is None and not len(self._buffer)
        return alone and data.startswith(b"{") and data.find(b"\n") == len(data) - 1

    def _next_message(self) -> bool:
        while self._message is None:
            line = self._next_line()
            if line is None:
                return False
            if line.strip():
                message = parse_line(line)
                self._missing = list(attachment_sizes(message.get("attachments")))
                self._message = message
        return True

    def _next_line(self) -> Optional[bytes]:
        try:
            return self._buffer.line()
        except TooLarge:
            self.unreadable = True
            raise

    def _take_attachments(self) -> bool:
        while self._missing:
            part = self._buffer.take(self._missing[0])
            if part is None:
                return False
            self._attachments.append(part)
            self._missing.pop(0)
        return True
