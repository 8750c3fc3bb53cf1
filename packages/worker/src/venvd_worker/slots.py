"""Slots: one record of shared memory for each session, read by the server (docs/architecture.md, "Slots")."""

from __future__ import annotations

import mmap
import os
import struct
from time import monotonic
from typing import Union

SIZE = 128
IDLE, RUNNING = 1, 2
TIMEOUT, CANCELLED = 1, 2
REASONS = {"timeout": TIMEOUT, "cancelled": CANCELLED}

_STATE = struct.Struct("<I")
_REASON = struct.Struct("<I")
_CALL = struct.Struct("<Qdd")
_STOP = struct.Struct("<Q")
_RECORD = struct.Struct("<QQQQQQ24s")
_COUNTS = struct.Struct("<QQQQQ")

_STATE_AT, _REASON_AT, _SEQUENCE_AT, _STOP_AT, _RECORD_AT, _COUNTS_AT = 0, 4, 8, 32, 40, 48

_LARGEST_ID = (1 << 64) - 1


class Memory:
    """The slots' memory, mapped; it was made by the server."""

    def __init__(self, descriptor: int, count: int) -> None:
        if not 0 < count * SIZE <= os.fstat(descriptor).st_size:
            raise ValueError("the memory of the slots is too small for {} of them".format(count))
        self.count = count
        self.descriptor = descriptor
        self.map = mmap.mmap(descriptor, count * SIZE)

    def close(self) -> None:
        self.map.close()
        os.close(self.descriptor)


class Slot:
    """A session's own slot: what it writes at the start and the end of each call."""

    def __init__(self, memory: Union[mmap.mmap, bytearray], index: int) -> None:
        self._memory = memory
        self._base = index * SIZE
        self.sequence = 0
        self.calls = 0
        self.errors = 0
        self.handles = 0
        self.received = 0
        self.sent = 0

    def ready(self) -> None:
        """Say that the session is able to take calls."""
        _STATE.pack_into(self._memory, self._base + _STATE_AT, IDLE)

    def begin(self, request: int, command: bytes, timeout: float) -> None:
        """A call starts; `timeout` in seconds, 0 for none."""
        base, memory, now = self._base, self._memory, monotonic()
        self.sequence += 1
        _CALL.pack_into(memory, base + _SEQUENCE_AT, self.sequence, now, now + timeout if timeout else 0.0)
        record = (request, self.calls, self.errors, self.handles, self.received, self.sent, command)
        _RECORD.pack_into(memory, base + _RECORD_AT, *record)
        # The state comes last: who sees `running` finds the rest in place.
        _STATE.pack_into(memory, base + _STATE_AT, RUNNING)

    def end(self, failed: bool, handles: int) -> None:
        """The call was answered."""
        self.calls += 1
        self.errors += failed
        self.handles = handles
        counts = (self.calls, self.errors, handles, self.received, self.sent)
        _COUNTS.pack_into(self._memory, self._base + _COUNTS_AT, *counts)
        _STATE.pack_into(self._memory, self._base + _STATE_AT, IDLE)

    def stop_reason(self) -> int:
        """`TIMEOUT` or `CANCELLED` where the running call is the one to stop, else 0."""
        (sequence,) = _STOP.unpack_from(self._memory, self._base + _STOP_AT)
        if sequence != self.sequence or not sequence:
            return 0
        return int(_REASON.unpack_from(self._memory, self._base + _REASON_AT)[0])


class Watch:
    """The same slot as the warden sees it: it may hold anything."""

    def __init__(self, memory: Memory, index: int) -> None:
        self._memory = memory.map
        self._base = index * SIZE

    def ask_to_stop(self, sequence: int, reason: str) -> None:
        _REASON.pack_into(self._memory, self._base + _REASON_AT, REASONS[reason])
        _STOP.pack_into(self._memory, self._base + _STOP_AT, sequence)

    def runs(self, sequence: int) -> bool:
        """Whether the session still says that it runs this call."""
        (state,) = _STATE.unpack_from(self._memory, self._base + _STATE_AT)
        found, _, _ = _CALL.unpack_from(self._memory, self._base + _SEQUENCE_AT)
        return bool(state == RUNNING and found == sequence)


def request_number(identifier: object) -> int:
    """A request's `id` as a slot can hold it; 0 for what is no such number."""
    if type(identifier) is int and 0 <= identifier <= _LARGEST_ID:
        return identifier
    return 0
