"""A stream of requests and replies in the framing of the pipe."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_contract.framing import MAX_LINE, Buffer, attachment_sizes, parse_line, parse_whole
from venvd_worker.session.replies import NO_ID, Package, Reply
from venvd_worker.session.slot import Traffic

_BRACE = ord("{")
CHUNK = 64 * 1024  # larger ones malloc maps and unmaps for every call


Request = Tuple[Dict[str, Any], Sequence[bytes]]
"""One request as it came, with its attachments."""


class Stream:
    """The session's end of a connection to the server or to a direct client.

    Attributes:
        shares: whether the other end shares segments with the session.
        connection: the number of a direct connection, 0 for the server's stream.
        waiting: whether the session has read more than it has answered.
        unreadable: whether the session cannot find the next line.
        begin: the beginning of the answer to a line that is not a request.
        blocked: whether replies wait until the peer reads.
        gone: whether the peer reads no more replies.
        fresh: whether the next line may be something other than a call.
        values: the mode of values in replies to requests that name none.
        timeout: seconds that a call may take if its request sets no timeout, 0 for no limit.
    """

    connection = 0
    shares = True
    blocked = False
    gone = False
    fresh = True
    values = "plain"
    timeout = 0.0

    def __init__(self, descriptor: int, traffic: Traffic, max_line: int = MAX_LINE) -> None:
        self._sock = socket.socket(fileno=descriptor)
        self._read: Callable[[], bytes] = partial(self._sock.recv, CHUNK, socket.MSG_DONTWAIT)
        self._traffic = traffic
        self._buffer = Buffer(max_line)
        self._max_size = max_line + 1
        self.waiting = False
        self.unreadable = False
        self.begin = NO_ID
        self._message: Optional[Dict[str, Any]] = None
        self._missing: List[int] = []
        self._attachments: List[bytes] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def request(self) -> Optional[Request]:
        """Return the next whole request from bytes read before or readable now, or None if there is none.

        Raises:
            EOFError: the peer is gone.
            InvalidRequest, TooLarge: a line is not a request. The stream can read the next one, unless it is
                `unreadable`.
        """
        if self.waiting:
            queued = self._next()
            if queued is not None:
                return queued
        try:
            data = self._read() or self._read_end()
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError(str(error)) from None
        size = len(data)
        self._traffic.received += size
        if data.find(b"\n") == size - 1 and not self.waiting and size <= self._max_size and data[0] == _BRACE:
            # Nearly always the data is exactly one line. It need not go through the buffer.
            message = parse_whole(data)
            if "attachments" not in message:
                return message, ()
        self._buffer.feed(data)
        return self._next()

    def send(self, data: Reply) -> None:
        """Send one or more whole lines, or a package.

        Raises:
            EOFError: the server is gone.
        """
        try:
            if isinstance(data, bytes):
                self._sock.sendall(data)
            else:
                self._send_package(data)
        except ConnectionError as error:
            raise EOFError(str(error)) from None

    def _send_package(self, package: Package) -> None:
        self._sock.sendall(package.line)
        for part in package.attachments:
            self._sock.sendall(part)

    def close(self) -> None:
        self._sock.close()

    def admit(self, message: Dict[str, Any]) -> float:
        """Check the optional fields of a request. Return the timeout of the call in seconds, or 0 for none.

        Raises:
            InvalidRequest: a field that all commands share is wrong.
        """
        given = message.get("timeout")
        if given is None:
            return self.timeout
        if type(given) not in (int, float) or not 0 <= given < float("inf"):
            raise InvalidRequest('"timeout" takes a number of seconds from 0 on')
        return float(given)

    def _read_end(self) -> bytes:
        """Handle the end of the peer's input."""
        raise EOFError("the peer went away")

    def _next(self) -> Optional[Request]:
        self.waiting = True
        if not (self._next_message() and self._take_attachments()):
            return None
        message, self._message = self._message or {}, None
        attachments, self._attachments = self._attachments, []
        self.waiting = len(self._buffer) > 0
        return message, attachments

    def _next_message(self) -> bool:
        while self._message is None:
            line = self._next_line()
            if line is None:
                self.waiting = len(self._buffer) > 0
                return False
            if line.strip():
                message = parse_line(line)
                self._missing = self._read_sizes(message)
                self._message = message
        return True

    def _next_line(self) -> Optional[bytes]:
        try:
            return self._buffer.line()
        except TooLarge:
            self.unreadable = True
            raise

    def _read_sizes(self, message: Dict[str, Any]) -> List[int]:
        return list(attachment_sizes(message.get("attachments")))

    def _take_attachments(self) -> bool:
        while self._missing:
            part = self._buffer.take(self._missing[0])
            if part is None:
                return False
            self._attachments.append(part)
            self._missing.pop(0)
        return True
