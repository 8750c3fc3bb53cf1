"""Segments: sealed memfds that the server makes for a session, to send and receive arrays.

The first touch of fresh memory costs several times as much as a copy into it. An unused segment therefore stays mapped
for a while, here and at the server.

An array that was sent is a private mapping of its segment, and processes that the session has forked may share its
pages. A segment that such a process may still see is never used again.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import weakref
from collections import deque
from time import monotonic
from typing import Any, Deque, Dict, Iterable, List, Optional, Sequence, Set

from venvd_contract.errors import LimitExceeded, from_fields
from venvd_contract.internal.control import SEND, receive, rights
from venvd_contract.internal.segments import MOST_SEGMENTS
from venvd_worker.common import kernel
from venvd_worker.common.descriptors import lift

_IDLE_BYTES = 1 << 30
_IDLE_SECONDS = 15.0
_GRAIN = 1 << 20
_WASTE = 4
"""A borrower gets no idle segment that is more than this many times as large as it needs."""
_ANSWER_TIMEOUT = 60.0
"""Seconds that the server may take to make a segment."""


class Supply:
    """The session's end of the connection over which the server gives it segments."""

    def __init__(self, descriptor: int) -> None:
        self._sock = socket.socket(fileno=descriptor)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def fetch(self, size: int) -> "Segment":
        """Ask the server for a segment of `size` bytes, and map it.

        Raises:
            LimitExceeded: the server gives no segment of that size, or there is no room for it here.
            EOFError: the server is gone.
        """
        self._send({"want": size})
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            if not poll.poll(1000 * _ANSWER_TIMEOUT):
                raise LimitExceeded("the server gave no memory within {:g} s".format(_ANSWER_TIMEOUT))
            try:
                packet = receive(self._sock)
            except BlockingIOError:
                continue
            break
        if not packet.data:
            raise EOFError("the server gives no memory any more")
        answer = json.loads(packet.data.decode())
        if "error" in answer:
            raise from_fields(answer)
        try:
            return _open(answer["name"], answer["size"], packet.descriptors)
        except BaseException:
            self.report_gone([answer["name"]])
            raise

    def report_gone(self, names: Sequence[str]) -> None:
        """Tell the server that the session does not use these segments again."""
        self._send({"gone": list(names)})

    def _send(self, message: Dict[str, Any]) -> None:
        try:
            self._sock.sendmsg([json.dumps(message).encode()], rights(()), SEND)
        except OSError as error:
            raise EOFError("the server gives no memory any more: {}".format(error)) from None


class Segment:
    """One sealed memfd. The session has mapped it and allocated every page."""

    def __init__(self, name: str, size: int, descriptor: int) -> None:
        self.name = name
        self.size = size
        self.descriptor = descriptor
        try:
            # The kernel charges a page to the process that touches it first: this process, not its peers.
            os.posix_fallocate(self.descriptor, 0, size)
            self.map = _map(self.descriptor, size, private=False)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.idle_since = 0.0

    def copy_on_write(self, size: int) -> Any:
        """Map its first bytes privately. What a process writes there stays in that process, also after a fork."""
        return _map(self.descriptor, size, private=True)

    def close(self) -> None:
        """Close the descriptor. A mapping stays while it has users."""
        os.close(self.descriptor)


def _open(name: str, size: int, descriptors: Sequence[int]) -> Segment:
    if len(descriptors) != 1:
        raise LimitExceeded("the session has no room for the descriptor of a segment: it has too many open files")
    return Segment(name, size, lift(descriptors[0]))


def _map(descriptor: int, size: int, private: bool) -> Any:
    """Map a file as an object. The mapping lives as long as the object has users."""
    address = kernel.map_file(descriptor, max(1, size), private)
    mapping = (ctypes.c_char * size).from_address(address)
    weakref.finalize(mapping, kernel.unmap, address, max(1, size)).atexit = False
    return mapping


class Segments:
    """The segments of one session. A segment is idle, lent to the server, or kept by an array that lies in it.

    Attributes:
        most: the limit of the bytes of all segments together; None for no limit.
    """

    def __init__(self, supply: Supply) -> None:
        self.most: Optional[int] = None
        self._supply = supply
        self._all: Dict[str, Segment] = {}
        self.idle: List[Segment] = []
        self._lent: Set[str] = set()
        self.returned: Deque[Segment] = deque()
        """Segments whose array died. A deque, because the garbage collector appends to it at any time."""

    def lend(self, size: int) -> Segment:
        """Lend the server a segment of `size` bytes or more, until `take_back`, `keep_for_array` or `retire`.

        Raises:
            LimitExceeded: the session would have too many segments, or too many bytes in them.
        """
        self._collect()
        fitting = [each for each in self.idle if size <= each.size <= max(_WASTE * size, _WASTE * _GRAIN)]
        if fitting:
            segment = min(fitting, key=lambda each: each.size)
            self.idle.remove(segment)
        else:
            segment = self._fetch(-(-size // _GRAIN) * _GRAIN)
        self._lent.add(segment.name)
        return segment

    def find_lent(self, name: str) -> Optional[Segment]:
        """Return the segment of that name if it is lent to the server."""
        return self._all.get(name) if name in self._lent else None

    def take_back(self, names: Iterable[str]) -> None:
        """Make lent segments idle, because the server is done with them. A name that is not lent is not an error."""
        for name in names:
            if name in self._lent:
                self._lent.remove(name)
                self._rest(self._all[name])
        self._trim()

    def keep_for_array(self, segment: Segment, size: int) -> Any:
        """Map the first bytes of a lent segment for an array. The segment becomes idle after the array dies."""
        mapping = segment.copy_on_write(size)
        weakref.finalize(mapping, self.returned.append, segment).atexit = False
        self._lent.remove(segment.name)
        return mapping

    def retire(self, names: Iterable[str]) -> None:
        """Drop these lent segments: a client that is gone may still have them mapped."""
        lent = [name for name in names if name in self._lent]
        self._lent.difference_update(lent)
        self._drop([self._all[name] for name in lent])

    @property
    def crowded(self) -> bool:
        """Whether so many segments are in use that the session should copy further arrays out of theirs."""
        return len(self._all) - len(self.idle) > MOST_SEGMENTS // 2

    def is_lent(self, name: str) -> bool:
        return name in self._lent

    def expire(self) -> Optional[float]:
        """Drop segments that have been idle for long. Return the seconds until the next is due, or None without one."""
        if not self.idle and not self.returned:
            return None
        self._collect()
        now = monotonic()
        self._drop([each for each in self.idle if now - each.idle_since >= _IDLE_SECONDS])
        return max(0.1, self.idle[0].idle_since + _IDLE_SECONDS - now) if self.idle else None

    # ---- inside

    def _fetch(self, size: int) -> Segment:
        self._make_room(size)
        if len(self._all) >= MOST_SEGMENTS:
            raise LimitExceeded("the session has {} arrays in shared memory, which is its limit".format(MOST_SEGMENTS))
        if not self._fits(size):
            raise LimitExceeded(
                "the array takes {} bytes beside {} of others on their way or just sent: memoryBytes is {}".format(
                    size, self._total(), self.most
                )
            )
        segment = self._supply.fetch(size)
        self._all[segment.name] = segment
        return segment

    def _make_room(self, size: int) -> None:
        """Drop idle segments, oldest first, until a new one fits."""
        while self.idle and (len(self._all) >= MOST_SEGMENTS or not self._fits(size)):
            self._drop([self.idle[0]])

    def _fits(self, size: int) -> bool:
        return self.most is None or self._total() + size <= self.most

    def _total(self) -> int:
        return sum(each.size for each in self._all.values())

    def _collect(self) -> None:
        """Make segments idle whose array died, unless a forked process may still see it, and trim."""
        while self.returned:
            segment = self.returned.popleft()
            if _has_children():
                self._drop([segment])
            else:
                self._rest(segment)
        self._trim()

    def _rest(self, segment: Segment) -> None:
        segment.idle_since = monotonic()
        self.idle.append(segment)

    def _trim(self) -> None:
        """Drop idle segments, oldest first, until they take no more bytes than they may."""
        while sum(each.size for each in self.idle) > _IDLE_BYTES:
            self._drop([self.idle[0]])

    def _drop(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if segment in self.idle:
                self.idle.remove(segment)
            del self._all[segment.name]
            segment.close()
        if segments:
            self._supply.report_gone([segment.name for segment in segments])


def _has_children() -> bool:
    """Whether a process is below this one: a session adopts its orphans, so that each fork of it still counts."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
