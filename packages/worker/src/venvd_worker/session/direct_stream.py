"""A client whose connection was handed to the session: it speaks to it without the server in between."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple, Union

from venvd_contract.commands import PIPES
from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_contract.framing import attachment_sizes
from venvd_contract.internal.control import AttachTerms, close_descriptors, rights
from venvd_worker.session.pipes import Pipes
from venvd_worker.session.replies import NO_ID, Package, Reply, head, package
from venvd_worker.session.segments import Segment
from venvd_worker.session.slot import Traffic
from venvd_worker.session.streams import CHUNK, Stream

_LONGEST_TIMEOUT = 365 * 86400.0
_STALL = 60.0
"""Seconds that a client may leave its replies unread."""
_LINGER, _LINGER_BYTES = 5.0, 64 << 20
"""How long, and how much, a client whose line cannot be read may go on sending until it has read why."""
LARGE = 1 << 20
"""Bytes that are offered to the kernel at once."""
_PATIENCE, _RATE = 0.1, 50e6
"""How long a client that reads nothing of an attachment holds the session up, and how fast one must be that does."""
_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class DirectPeer:
    """A direct client as segments see it: their descriptors go along with the replies that name them first."""

    def __init__(self) -> None:
        self.known: Set[str] = set()
        self.shares = True
        """Whether descriptors reach it."""

    def introduce(self, segment: Segment) -> List[int]:
        if segment.name in self.known:
            return []
        self.known.add(segment.name)
        return [segment.descriptor]


class DirectStream(Stream):
    """One direct client. It never holds up the session: replies that it does not read wait, and it is not read.

    Attributes:
        source: the descriptor that its requests come from.
        sink: the one that takes its replies.
    """

    def __init__(self, descriptor: int, terms: AttachTerms, rest: bytes, traffic: Traffic) -> None:
        super().__init__(descriptor, DirectPeer(), traffic, terms.max_line)
        # Not `setblocking`: the server uses the same socket.
        self._write: Callable[[Union[bytes, memoryview]], int] = lambda data: self._sock.send(data, _SEND)
        self._pipes: Optional[Pipes] = None
        self.source = self.sink = self.fileno()
        self.connection = terms.connection
        self.session = terms.session
        self.cancels = terms.cancel
        self.gone = False
        self.timeout = terms.timeout
        self._most_attachments = terms.max_attachment_bytes
        self._unsent: Deque[Tuple[memoryview, List[int]]] = deque()
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

    def take_pipes(self, begin: bytes) -> None:
        """Answer `session.pipes`: from now on the lines go over pipes, and the connection only shows that it is there.

        Raises:
            InvalidRequest: something was sent behind it.
            OSError: there is no room for the descriptors.
        """
        if self.waiting:
            raise InvalidRequest("{}: nothing may be sent behind it before its answer".format(PIPES))
        pipes = Pipes()
        self.send(package(begin, {"success": True}, (), pipes.theirs))
        pipes.hand_over()
        self._pipes = pipes
        self.source, self.sink = pipes.requests, pipes.replies
        self._read = partial(os.read, pipes.requests, CHUNK)
        self._write = partial(os.write, pipes.replies)
        self.peer.shares = False

    # ---- requests

    def _ended(self) -> bytes:
        if self._ending:
            raise EOFError("the client went away")
        self._ending = True
        if self._message is not None:
            there, all_of_it = len(self._buffer), sum(self._missing)
            self._give_up(self._message)
            raise InvalidRequest(
                "the attachments ended after {} of the {} bytes that were announced".format(there, all_of_it)
            )
        if not len(self._buffer):
            raise EOFError("the client went away")
        return b"\n"  # the last line ends where the stream does

    def _sizes(self, message: Dict[str, Any]) -> List[int]:
        try:
            sizes = list(attachment_sizes(message.get("attachments")))
        except (InvalidRequest, TooLarge):
            self._give_up(message)  # how many bytes follow is not known
            raise
        if sum(sizes) > self._most_attachments:
            self._give_up(message)
            raise TooLarge("the attachments are larger than the limit of {} bytes".format(self._most_attachments))
        return sizes

    def _give_up(self, message: Dict[str, Any]) -> None:
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
        given = message.get("timeout")
        if given is None:
            return self.timeout
        if type(given) not in (int, float) or not 0 < given < float("inf"):
            raise InvalidRequest("timeout takes seconds, more than 0")
        return float(min(given, _LONGEST_TIMEOUT))

    # ---- replies

    def send(self, data: Reply) -> None:
        """Send whole lines and what goes along, or keep it until the client reads; nothing where it is gone.

        Raises:
            OSError: the descriptor is not that of the connection any more.
        """
        if self.gone:
            return
        if type(data) is bytes:
            self._pass(data)
        elif isinstance(data, Package):
            self._pass(data.line, data.descriptors)
            for part in data.attachments:
                self._pass_large(memoryview(part).cast("B"))

    def _pass(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        size = len(data)
        self._traffic.sent += size
        sent = 0 if self._unsent else self._offer(data, descriptors)
        if sent < size:
            self._keep(data[sent:], () if sent else descriptors)

    def _pass_large(self, data: memoryview) -> None:
        """Wait for a client that reads, for a while: keeping so much would cost a copy, and its memory."""
        self._traffic.sent += len(data)
        sent = 0
        patience = monotonic() + _PATIENCE + len(data) / _RATE
        poll = select.poll()
        poll.register(self.sink, select.POLLOUT)
        while sent < len(data) and not self._unsent:
            sent += self._offer(data[sent : sent + LARGE], ())
            left = patience - monotonic()
            if sent < len(data) and (left <= 0 or not poll.poll(1000 * min(left, _PATIENCE))):
                break
        if sent < len(data):
            self._keep(bytes(data[sent:]), ())

    def _keep(self, data: bytes, descriptors: Sequence[int]) -> None:
        if not self._unsent:
            self._moved = monotonic()
        self.blocked = True
        self._unsent.append((memoryview(data), [os.dup(each) for each in descriptors]))

    def flush(self) -> None:
        """Send on what waits."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            sent = self._offer(data[:LARGE], descriptors)
            if self.gone or not sent:
                return
            self._moved = monotonic()
            close_descriptors(descriptors)
            self._unsent[0] = data[sent:], []
            if sent == len(data):
                self._unsent.popleft()
        self.blocked = False

    def _offer(self, data: Union[bytes, memoryview], descriptors: Sequence[int]) -> int:
        try:
            if descriptors:
                return self._sock.sendmsg([data], rights(descriptors), _SEND)
            return self._write(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            self.leave()
            return len(data)

    def _let_go(self) -> None:
        self.blocked = False
        while self._unsent:
            close_descriptors(self._unsent.popleft()[1])

    def stalls(self, now: float) -> bool:
        """Whether the client has done nothing for too long about what waits for it."""
        if self._lingers_until:
            return now > self._lingers_until
        return self.blocked and now - self._moved > _STALL

    # ---- the end

    def linger(self) -> None:
        """Answer nothing any more, but let the client read what it was told."""
        self._lingers_until = monotonic() + _LINGER
        self._sock.shutdown(socket.SHUT_WR)

    @property
    def lingers(self) -> bool:
        return bool(self._lingers_until)

    def discard(self) -> bool:
        """Throw away what the client goes on sending; whether there may be more of it."""
        try:
            data = self._read()
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self._discarded += len(data)
        return bool(data) and self._discarded <= _LINGER_BYTES

    def close(self) -> None:
        """End the connection; the server keeps a descriptor of it, so that closing this one would not."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client did
        self._let_go()
        if self._pipes is not None:
            self._pipes.close()
        self._sock.close()

    def leave(self) -> None:
        """The client reads no replies any more."""
        self.gone = True
        self._let_go()
