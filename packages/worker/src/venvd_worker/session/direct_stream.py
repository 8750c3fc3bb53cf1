"""The connection of a direct client, which the server has handed over to the session."""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, Optional, Union

from venvd_contract.commands import PIPES
from venvd_contract.errors import InvalidRequest, LimitExceeded, TooLarge
from venvd_contract.framing import attachment_sizes
from venvd_contract.internal.control import AttachTerms, close_descriptors, receive
from venvd_worker.common.descriptors import lift
from venvd_worker.session.pipes import Pipes
from venvd_worker.session.replies import NO_ID, Package, Reply, head, package
from venvd_worker.session.slot import Traffic
from venvd_worker.session.streams import Stream

_LONGEST_TIMEOUT = 365 * 86400.0
_STALL = 60.0
"""Seconds that a client may leave its replies unread before the session drops it."""
_LINGER, _LINGER_BYTES = 5.0, 64 << 20
"""Seconds and bytes that a client may go on sending after a line that the session cannot read."""
LARGE = 1 << 20
"""Bytes that the session offers to the kernel at once."""
_READ_TIMEOUT, _RATE = 0.1, 50e6
"""Seconds that the session waits for a client that does not read, and bytes a second that a client must read."""
_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class DirectStream(Stream):
    """The stream of one direct client. While replies wait for the client, the session does not read its requests.

    Attributes:
        source: the descriptor from which the session reads requests.
        sink: the descriptor to which the session writes replies.
    """

    shares = False

    def __init__(self, descriptor: int, terms: AttachTerms, rest: bytes, traffic: Traffic) -> None:
        super().__init__(descriptor, traffic, terms.max_line)
        self._read_plain, self._read = self._read, self._read_first
        self._brought: List[int] = []
        """Descriptors that came with the first bytes."""
        self._has_room = True
        # `setblocking` would also change the server's descriptor of the same socket.
        self._write: Callable[[Union[bytes, memoryview]], int] = lambda data: self._sock.send(data, _SEND)
        self._pipes: Optional[Pipes] = None
        self.source = self.sink = self.fileno()
        self.connection = terms.connection
        self.session = terms.session
        self.cancels = terms.cancel
        self.gone = False
        self.timeout = terms.timeout
        self._most_attachments = terms.max_attachment_bytes
        self._unsent: Deque[memoryview] = deque()
        self._moved = 0.0
        self._ending = False
        self._discarded = 0
        self._lingers_until = 0.0
        if rest:
            traffic.received += len(rest)
            self._buffer.feed(rest)
            self.waiting = True

    # ---- pipes

    @property
    def piped(self) -> bool:
        return self._pipes is not None

    @property
    def descriptors(self) -> List[int]:
        return [self.fileno(), *(self._pipes.descriptors if self._pipes else ())]

    def _read_first(self) -> bytes:
        """Read as later, but keep the descriptors that `session.pipes` brings. Later reads discard descriptors."""
        packet = receive(self._sock)
        self._read = self._read_plain
        self._brought = list(map(lift, packet.descriptors))
        self._has_room = not packet.descriptors_lost
        return packet.data

    def drop_brought(self) -> None:
        """Close the descriptors that came with a first line other than `session.pipes`."""
        brought, self._brought = self._brought, []
        close_descriptors(brought)

    def take_pipes(self, begin: bytes) -> None:
        """Answer `session.pipes`. Lines then go over the client's two pipes, and the connection only shows its end.

        Raises:
            InvalidRequest: the client brought no two pipes, or sent something before the answer.
            LimitExceeded: the process has no room for the descriptors.
        """
        if self.waiting:
            raise InvalidRequest("{}: nothing may be sent behind it before its answer".format(PIPES))
        brought, self._brought = self._brought, []
        if not self._has_room:
            close_descriptors(brought)
            raise LimitExceeded("the session has no room for two pipes: it has too many open files")
        pipes = Pipes(brought)
        self.send(package(begin, {"success": True}, ()))
        self._pipes = pipes
        self.source, self.sink = pipes.requests, pipes.replies
        self._read = pipes.read
        self._write = pipes.write

    # ---- requests

    def _read_end(self) -> bytes:
        if self._ending:
            raise EOFError("the client went away")
        self._ending = True
        if self._message is not None:
            received, expected = len(self._buffer), sum(self._missing)
            self._mark_unreadable(self._message)
            raise InvalidRequest(
                "the attachments ended after {} of the {} bytes that were announced".format(received, expected)
            )
        if not len(self._buffer):
            raise EOFError("the client went away")
        return b"\n"  # the end of the stream ends the last line

    def _read_sizes(self, message: Dict[str, Any]) -> List[int]:
        try:
            sizes = list(attachment_sizes(message.get("attachments")))
        except (InvalidRequest, TooLarge):
            self._mark_unreadable(message)  # the session does not know how many bytes follow
            raise
        if sum(sizes) > self._most_attachments:
            self._mark_unreadable(message)
            raise TooLarge("the attachments are larger than the limit of {} bytes".format(self._most_attachments))
        return sizes

    def _mark_unreadable(self, message: Dict[str, Any]) -> None:
        """Note that the session cannot find the next line, and that the error answers `message`."""
        self.unreadable = True
        try:
            self.begin = head(message.get("id"))[0]
        except InvalidRequest:
            self.begin = NO_ID

    def admit(self, message: Dict[str, Any]) -> float:
        session = message.get("session")
        if session is not None and session != self.session:
            raise InvalidRequest(
                'this connection is attached to the session "{}": use another connection for other sessions'.format(
                    self.session
                )
            )
        if message.get("call") is not None:
            raise InvalidRequest("this connection is attached: a call with a name takes another connection")
        if "stream" in message and type(message["stream"]) not in (bool, type(None)):
            raise InvalidRequest('"stream" takes true or false')
        timeout = message.get("timeout")
        if timeout is None:
            return self.timeout
        if type(timeout) not in (int, float) or not 0 < timeout < float("inf"):
            raise InvalidRequest("timeout takes seconds, more than 0")
        return float(min(timeout, _LONGEST_TIMEOUT))

    # ---- replies

    def send(self, data: Reply) -> None:
        """Send lines, attachments and descriptors, or queue what the client does not read now.

        Raises:
            OSError: user code closed or replaced the descriptor.
        """
        if self.gone:
            return
        if type(data) is bytes:
            self._send_line(data)
        elif isinstance(data, Package):
            self._send_line(data.line)
            for part in data.attachments:
                self._send_attachment(memoryview(part).cast("B"))

    def _send_line(self, data: bytes) -> None:
        size = len(data)
        self._traffic.sent += size
        sent = 0 if self._unsent else self._write_some(data)
        if sent < size:
            self._queue(data[sent:])

    def _send_attachment(self, data: memoryview) -> None:
        """Send an attachment. Wait as long as the client reads, because a queue would cost a copy and its memory."""
        self._traffic.sent += len(data)
        sent = 0
        deadline = monotonic() + _READ_TIMEOUT + len(data) / _RATE
        poll = select.poll()
        poll.register(self.sink, select.POLLOUT)
        while sent < len(data) and not self._unsent:
            sent += self._write_some(data[sent : sent + LARGE])
            remaining = deadline - monotonic()
            if sent < len(data) and (remaining <= 0 or not poll.poll(1000 * min(remaining, _READ_TIMEOUT))):
                break
        if sent < len(data):
            self._queue(bytes(data[sent:]))

    def _queue(self, data: bytes) -> None:
        if not self._unsent:
            self._moved = monotonic()
        self.blocked = True
        self._unsent.append(memoryview(data))

    def flush(self) -> None:
        """Send as much of the queued replies as the client takes."""
        while self._unsent:
            data = self._unsent[0]
            sent = self._write_some(data[:LARGE])
            if self.gone or not sent:
                return
            self._moved = monotonic()
            self._unsent[0] = data[sent:]
            if sent == len(data):
                self._unsent.popleft()
        self.blocked = False

    def _write_some(self, data: Union[bytes, memoryview]) -> int:
        """Write without waiting, and return the number of bytes. Data for a client that is gone counts as written."""
        try:
            return self._write(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            self.mark_gone()
            return len(data)

    def _drop_unsent(self) -> None:
        self.blocked = False
        self._unsent.clear()

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has read nothing for too long, or has lingered for too long."""
        if self._lingers_until:
            return now > self._lingers_until
        return self.blocked and now - self._moved > _STALL

    # ---- the end

    def linger(self) -> None:
        """End the replies, and let the client read the last one."""
        self._lingers_until = monotonic() + _LINGER
        self._sock.shutdown(socket.SHUT_WR)

    @property
    def lingers(self) -> bool:
        return bool(self._lingers_until)

    def discard(self) -> bool:
        """Discard input. Return False when the client has stopped sending or has sent too much."""
        try:
            data = self._read()
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self._discarded += len(data)
        return bool(data) and self._discarded <= _LINGER_BYTES

    def close(self) -> None:
        """End the connection. `shutdown` ends it although the server has a descriptor of the same socket."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client has ended it
        self._drop_unsent()
        self.drop_brought()
        if self._pipes is not None:
            self._pipes.close()
        self._sock.close()

    def mark_gone(self) -> None:
        """Note that the client reads no more replies."""
        self.gone = True
        self._drop_unsent()
