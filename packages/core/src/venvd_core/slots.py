"""The slots: shared memory in which each session says what it is doing (`venvd_contract.internal.slots`).

Sessions can write what they like there, so everything read is untrusted: it is bounded, and nothing that matters is
decided by it alone.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from venvd_contract.internal.segments import create_sealed
from venvd_contract.internal.slots import AT, FREE, ID_BYTES, IDLE, READ, RUNNING, SIZE, U64

_LARGEST = 2**53


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
    heartbeat: int
    """The last number that it was asked to write down."""


class Slots:
    """`count` slots in a sealed memfd; `fd` is what the warden is given."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fd = create_sealed("venvd-slots", count * SIZE)
        self._map = mmap.mmap(self.fd, count * SIZE)
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> int | None:
        """The index of an unused slot, or None."""
        return self._free.pop() if self._free else None

    def give_back(self, index: int) -> None:
        self._free.append(index)

    def clear(self, index: int) -> None:
        """Make a slot new for the next process; the last one must be gone."""
        self._map[index * SIZE : (index + 1) * SIZE] = bytes(SIZE)

    def read(self, index: int) -> SlotState:
        fields = READ.unpack_from(self._map, index * SIZE)
        sequence, _, deadline, request, connection, _, id_bytes, state, *counts, _, _, _, heartbeat = fields
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
            heartbeat,
        )

    def identity(self, index: int) -> bytes:
        """The ID of the running request as JSON; unchecked, and empty where there is none that could be one."""
        slot = self.read(index)
        if not slot.id_bytes:
            return b"%d" % slot.request
        if slot.id_bytes > ID_BYTES:
            return b""
        start = index * SIZE + AT["id"]
        return self._map[start : start + slot.id_bytes]

    def withdraw(self, index: int, number: int) -> None:
        """Ask the session not to begin the server's request `number` any more."""
        U64.pack_into(self._map, index * SIZE + AT["withdrawn"], number)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
