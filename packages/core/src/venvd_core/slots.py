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

SIZE = 128
FREE, IDLE, RUNNING = 0, 1, 2

_LAYOUT = struct.Struct("<IIQddQQQQQQQ24s")
_LARGEST = 2**53
# the standard library names these from CPython 3.13 on
_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4


@dataclass(frozen=True, slots=True)
class SlotState:
    state: int
    sequence: int
    request: int
    answered: int
    failed: int
    handles: int
    bytes_in: int
    bytes_out: int


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
        state, _, sequence, _, _, _, request, answered, failed, handles, received, sent, _ = _LAYOUT.unpack_from(
            self._map, index * SIZE
        )
        return SlotState(
            state if state in {FREE, IDLE, RUNNING} else FREE,
            sequence,
            request,
            min(answered, _LARGEST),
            min(failed, _LARGEST),
            min(handles, _LARGEST),
            min(received, _LARGEST),
            min(sent, _LARGEST),
        )

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)
