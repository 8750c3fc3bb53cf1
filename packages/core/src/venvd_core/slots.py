"""The server's view of the slots (`venvd_contract.internal.slots`).

User code can write anything there. So the server bounds what it reads, and takes no important decision by it alone.
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
    """The fields that a session writes about itself; `deadline` and the counters may hold any value."""

    state: int
    sequence: int
    started: float
    deadline: float
    """By the clock of the worker host, like `started`; under gVisor it differs from the server's clock."""
    request: int
    connection: int
    """The direct connection of the running call; 0 for the server's stream."""
    id_bytes: int
    """Length of the request's ID as JSON; 0 if the ID is a whole number."""
    answered: int
    handles: int
    bytes_in: int
    bytes_out: int
    direct_answered: int
    direct_failed: int
    heartbeat: int
    """The last number that the session was asked to write."""


class Slots:
    """`count` slots in a sealed memfd; the warden gets its descriptor `fd`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fd = create_sealed("venvd-slots", count * SIZE)
        self._map = mmap.mmap(self.fd, count * SIZE)
        self._free = list(range(count - 1, -1, -1))

    @property
    def taken(self) -> int:
        """The number of slots in use."""
        return self.count - len(self._free)

    def take(self) -> int | None:
        """Take a free slot and return its index, or None if all are in use."""
        return self._free.pop() if self._free else None

    def release(self, index: int) -> None:
        self._free.append(index)

    def clear(self, index: int) -> None:
        """Clear a slot for the next process; the process before must have ended."""
        self._map[index * SIZE : (index + 1) * SIZE] = bytes(SIZE)

    def read(self, index: int) -> SlotState:
        fields = READ.unpack_from(self._map, index * SIZE)
        sequence, started, deadline, request, connection, _, id_bytes, state, *counts, _, _, _, heartbeat = fields
        answered, _, handles, received, sent, direct_answered, direct_failed = (min(each, _LARGEST) for each in counts)
        return SlotState(
            state if state in {FREE, IDLE, RUNNING} else FREE,
            sequence,
            started,
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

    def read_request_id(self, index: int) -> bytes:
        """Return the ID of the running request as unchecked JSON; empty if it is too long."""
        slot = self.read(index)
        if not slot.id_bytes:
            return b"%d" % slot.request
        if slot.id_bytes > ID_BYTES:
            return b""
        start = index * SIZE + AT["id"]
        return self._map[start : start + slot.id_bytes]

    def withdraw(self, index: int, number: int) -> None:
        """Tell the session not to begin the server's request `number`."""
        U64.pack_into(self._map, index * SIZE + AT["withdrawn"], number)

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
