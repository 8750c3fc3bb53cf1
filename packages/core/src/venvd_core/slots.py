"""The slots: shared memory in which each session says what it is doing; docs/architecture.md has the layout.

Sessions can write what they like there, so everything read is untrusted: it is bounded, and nothing that matters is
decided by it alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

SIZE = 512
FREE, IDLE, RUNNING = 0, 1, 2

_LAYOUT = struct.Struct("<QddQQ24sIIQQQQQQQ24xQ")
_WITHDRAWN = struct.Struct("<Q")
_WITHDRAWN_AT, _ID_AT, _ID_BYTES = 144, 256, 256
_LARGEST = 2**53
# the standard library names these from CPython 3.13 on
_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4


@dataclass(frozen=True, slots=True)
class SlotState:
    """What a session says of itself; `deadline` and the numbers of calls and bytes may be anything."""

    state: int
    sequence: int
    deadline: float
    request: int
    connection: int
    """The direct connection of the running call; 0 for the server's stream."""
    id_bytes: int
    """Of the request's ID as JSON, where it is no whole number."""
    answered: int
    handles: int
    bytes_in: int
    bytes_out: int
    direct_answered: int
    direct_failed: int
    heard: int
    """The last number that it was asked to write down."""


class Slots:
    """`count` slots in a sealed memfd; `fd` is what the warden is given."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fd = os.memfd_create("venvd-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, count * SIZE)
        fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
        self._map = mmap.mmap(self.fd, count * SIZE)
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> int | None:
        """The index of a slot that nobody uses, or None."""
        return self._free.pop() if self._free else None

    def give_back(self, index: int) -> None:
        self._free.append(index)

    def clear(self, index: int) -> None:
        """Make a slot new for the next process; the last one must be gone."""
        self._map[index * SIZE : (index + 1) * SIZE] = bytes(SIZE)

    def read(self, index: int) -> SlotState:
        found = _LAYOUT.unpack_from(self._map, index * SIZE)
        sequence, _, deadline, request, connection, _, id_bytes, state, *counts, heard = found
        answered, _, handles, received, sent, direct_answered, direct_failed = (min(each, _LARGEST) for each in counts)
        return SlotState(
            state if state in {FREE, IDLE, RUNNING} else FREE,
            sequence,
            deadline,
            request,
            connection,
            id_bytes,
            answered,
            handles,
            received,
            sent,
            direct_answered,
            direct_failed,
            heard,
        )

    def state(self, index: int) -> int:
        """FREE, IDLE or RUNNING."""
        return self.read(index).state

    def identity(self, index: int) -> bytes:
        """The ID of the running request as JSON; unchecked, and empty where there is none that could be one."""
        slot = self.read(index)
        if not slot.id_bytes:
            return b"%d" % slot.request
        if slot.id_bytes > _ID_BYTES:
            return b""
        start = index * SIZE + _ID_AT
        return self._map[start : start + slot.id_bytes]

    def withdraw(self, index: int, number: int) -> None:
        """Ask the session not to begin the server's request `number` any more."""
        _WITHDRAWN.pack_into(self._map, index * SIZE + _WITHDRAWN_AT, number)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
