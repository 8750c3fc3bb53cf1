"""Segments: sealed memfds that a session shares with its peers to send and receive arrays.

The first touch of fresh memory costs several times as much as a copy into it. An unused segment therefore stays mapped
for a while, here and at its peers.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from binascii import hexlify
from collections import deque
from time import monotonic
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Protocol, Sequence, Set

from venvd_contract.errors import InvalidRequest, LimitExceeded
from venvd_contract.internal.segments import MOST_SEGMENTS, create_sealed
from venvd_worker.common import kernel
from venvd_worker.common.control import ControlConnection
from venvd_worker.common.descriptors import lift

_IDLE_BYTES = 1 << 30
_IDLE_SECONDS = 15.0
_GRAIN = 1 << 20
_WASTE = 4
"""A borrower gets no idle segment that is more than this many times as large as it needs."""
_PREFIX = "seg-"


class Peer(Protocol):
    """A borrower of segments."""

    known: Set[str]
    """Names of the segments whose descriptors the peer has."""
    takes_descriptors: bool
    """Whether the session can send descriptors to the peer."""
    takes_text: bool
    """Whether the peer reads a long result out of a segment unasked."""

    def share(self, segment: "Segment") -> List[int]:
        """Make a segment known to the peer, and return the descriptors that the reply must carry."""


class ServerPeer:
    """The server as a peer. It gets descriptors through the warden."""

    takes_descriptors = True
    takes_text = True

    def __init__(self, control: ControlConnection) -> None:
        self.known: Set[str] = set()
        self._control = control

    def share(self, segment: "Segment") -> List[int]:
        if segment.name not in self.known:
            self.known.add(segment.name)
            described = {"name": segment.name, "size": segment.size}
            self._control.send({"segment": described}, [os.dup(segment.descriptor)])
        return []

    def report_gone(self, names: Sequence[str]) -> None:
        """Tell the server that the session will not use these segments again."""
        known_names = self.known.intersection(names)
        self.known -= known_names
        if known_names:
            self._control.send({"gone": sorted(known_names)})


class Segment:
    """One sealed memfd. The session has mapped it and allocated every page."""

    def __init__(self, size: int) -> None:
        self.name = _PREFIX + hexlify(os.urandom(12)).decode()
        self.size = size
        self.descriptor = lift(create_sealed("venvd-segment", size))
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


def _map(descriptor: int, size: int, private: bool) -> Any:
    """Map a file as an object. The mapping lives as long as the object has users."""
    address = kernel.map_file(descriptor, max(1, size), private)
    mapping = (ctypes.c_char * size).from_address(address)
    weakref.finalize(mapping, kernel.unmap, address, max(1, size)).atexit = False
    return mapping


class Segments:
    """The segments of one session. A segment is idle, lent to a peer, or kept by an array that lies in it.

    Args:
        most: the limit of the bytes of all segments together; None for no limit.
        gone: the function to call with the names of segments that the session will not use again.
    """

    def __init__(self, most: Optional[int], gone: Callable[[List[str]], None]) -> None:
        self._most = most
        self._tell_gone = gone
        self._all: Dict[str, Segment] = {}
        self.idle: List[Segment] = []
        self._lent: Dict[str, Peer] = {}
        self.returned: Deque[Segment] = deque()
        """Segments whose array died. A deque, because the garbage collector appends to it at any time."""

    def lend(self, size: int, peer: Peer) -> Segment:
        """Lend `peer` a segment of `size` bytes or more, until `take_back`, `keep_for_array` or `retire`.

        Raises:
            InvalidRequest: the peer cannot receive descriptors.
            LimitExceeded: the session would have too many segments, or too many bytes in them.
        """
        if not peer.takes_descriptors:
            raise InvalidRequest("pipes carry no descriptors: ask for shared memory over another connection")
        self._collect()
        fitting = [each for each in self.idle if size <= each.size <= max(_WASTE * size, _WASTE * _GRAIN)]
        if fitting:
            segment = min(fitting, key=lambda each: (each.name not in peer.known, each.size))
            self.idle.remove(segment)
        else:
            segment = self._make(-(-size // _GRAIN) * _GRAIN)
        self._lent[segment.name] = peer
        return segment

    def find_lent(self, name: str, peer: Peer) -> Optional[Segment]:
        """Return the segment of that name if it is lent to `peer`."""
        return self._all.get(name) if self._lent.get(name) is peer else None

    def take_back(self, names: Iterable[str]) -> None:
        """Make lent segments idle, because their peers are done with them. A name that is not lent is no error."""
        for name in names:
            if self._lent.pop(name, None) is not None:
                self._rest(self._all[name])
        self._trim()

    def keep_for_array(self, segment: Segment, size: int) -> Any:
        """Map the first bytes of a lent segment for an array. The segment becomes idle after the array dies."""
        mapping = segment.copy_on_write(size)
        weakref.finalize(mapping, self.returned.append, segment).atexit = False
        del self._lent[segment.name]
        return mapping

    def retire(self, names: Iterable[str]) -> None:
        """Drop these lent segments. Their peer is gone, and may still have them mapped."""
        self._drop([self._all[name] for name in names if self._lent.pop(name, None) is not None])

    @property
    def crowded(self) -> bool:
        """Whether so many segments are in use that the session should copy further arrays out of theirs."""
        return len(self._all) - len(self.idle) > MOST_SEGMENTS // 2

    def is_lent(self, name: str) -> bool:
        return name in self._lent

    def list_lent(self, peer: Peer) -> List[str]:
        return [name for name, holder in self._lent.items() if holder is peer]

    def list_gone(self, peer: Peer) -> List[str]:
        """Return the names of dropped segments that `peer` still knows. Each name is returned once."""
        names = [name for name in peer.known if name not in self._all]
        peer.known.difference_update(names)
        return names

    def expire(self) -> Optional[float]:
        """Drop segments that have been idle for long. Return the seconds until the next is due, or None without one."""
        if not self.idle and not self.returned:
            return None
        self._collect()
        now = monotonic()
        self._drop([each for each in self.idle if now - each.idle_since >= _IDLE_SECONDS])
        return max(0.1, self.idle[0].idle_since + _IDLE_SECONDS - now) if self.idle else None

    # ---- inside

    def _make(self, size: int) -> Segment:
        self._make_room(size)
        if len(self._all) >= MOST_SEGMENTS:
            raise LimitExceeded("the session has {} arrays in shared memory, which is its limit".format(MOST_SEGMENTS))
        if not self._fits(size):
            raise LimitExceeded(
                "the array takes {} bytes beside {} of others on their way or just sent: memoryBytes is {}".format(
                    size, self._total(), self._most
                )
            )
        segment = Segment(size)
        self._all[segment.name] = segment
        return segment

    def _make_room(self, size: int) -> None:
        """Drop idle segments, oldest first, until a new one fits."""
        while self.idle and (len(self._all) >= MOST_SEGMENTS or not self._fits(size)):
            self._drop([self.idle[0]])

    def _fits(self, size: int) -> bool:
        return self._most is None or self._total() + size <= self._most

    def _total(self) -> int:
        return sum(each.size for each in self._all.values())

    def _collect(self) -> None:
        """Make segments idle whose array died, and trim."""
        while self.returned:
            self._rest(self.returned.popleft())
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
            self._tell_gone([segment.name for segment in segments])
