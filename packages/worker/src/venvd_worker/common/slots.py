"""Slots: one record of shared memory for each session, read by the server (docs/architecture.md, "Slots")."""

from __future__ import annotations

import mmap
import os
import struct
from time import monotonic
from typing import Union

SIZE = 512
IDLE, RUNNING = 1, 2
TIMEOUT, CANCELLED = 1, 2
REASONS = {"timeout": TIMEOUT, "cancelled": CANCELLED}
MOST_ID_BYTES = 256

# What starts a call ends with the state, and what ends one begins with it: each is written at once.
_BEGIN = struct.Struct("<QddQQ24sII")
_END = struct.Struct("<IQQQQQQQ")
_STATE = struct.Struct("<I")
_SEQUENCE = struct.Struct("<Q")
_REASON = struct.Struct("<I")
_STOP = struct.Struct("<Q")
_WITHDRAWN = struct.Struct("<Q")
_HEARD = struct.Struct("<Q")

_SEQUENCE_AT, _STATE_AT, _REASON_AT, _STOP_AT, _WITHDRAWN_AT, _HEARD_AT, _ID_AT = 0, 68, 128, 136, 144, 152, 256


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


class Traffic:
    """Bytes that came and went over the streams that share it."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Slot:
    """A session's own slot: what it writes at the start and the end of each call."""

    def __init__(self, memory: Union[mmap.mmap, bytearray], index: int) -> None:
        self._memory = memory
        self._base = index * SIZE
        self._end = self._base + _STATE_AT
        self.sequence = 0
        """Of the call that runs, and how many there were."""
        self.errors = 0
        self.traffic = Traffic()
        """Of direct clients."""
        self.direct_calls = 0
        self.direct_errors = 0

    def ready(self) -> None:
        """Say that the session is able to take calls."""
        _STATE.pack_into(self._memory, self._end, IDLE)

    def begin(self, identifier: Union[int, bytes], command: bytes, timeout: float, connection: int) -> None:
        """A call starts, whose `sequence` was set before.

        Args:
            identifier: the request's ID: a whole number below 2**64, or its JSON as bytes, 256 at most.
            command: what it calls, 24 bytes at most.
            timeout: seconds, 0 for none.
            connection: the direct connection that it came over; 0 for the server's stream.
        """
        now = monotonic()
        length = 0
        if type(identifier) is bytes:
            length = len(identifier)
            self._memory[self._base + _ID_AT : self._base + _ID_AT + length] = identifier
            identifier = 0
        deadline = now + timeout if timeout else 0.0
        _BEGIN.pack_into(
            self._memory, self._base, self.sequence, now, deadline, identifier, connection, command, length, RUNNING
        )

    def end(self, handles: int, direct: bool, failed: bool) -> None:
        """The call was answered, or is about to be; so many handles are held."""
        if direct:
            self.direct_calls += 1
        if failed:
            self.errors += 1
            self.direct_errors += direct
        traffic = self.traffic
        _END.pack_into(
            self._memory, self._end, IDLE, self.sequence, self.errors, handles, traffic.received, traffic.sent,
            self.direct_calls, self.direct_errors,
        )  # fmt: skip

    def hear(self, number: int) -> None:
        """Show the server that it is heard."""
        _HEARD.pack_into(self._memory, self._base + _HEARD_AT, number)

    def unanswered(self) -> None:
        """The reply of the call that ended last could not be sent."""
        _STATE.pack_into(self._memory, self._end, RUNNING)

    def stop_reason(self) -> int:
        """`TIMEOUT` or `CANCELLED` where the running call is the one to stop, else 0."""
        (sequence,) = _STOP.unpack_from(self._memory, self._base + _STOP_AT)
        if sequence != self.sequence or not sequence:
            return 0
        return int(_REASON.unpack_from(self._memory, self._base + _REASON_AT)[0])

    def withdrawn(self) -> int:
        """The number of the server's request that is not to be begun any more."""
        return int(_WITHDRAWN.unpack_from(self._memory, self._base + _WITHDRAWN_AT)[0])


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
        (found,) = _SEQUENCE.unpack_from(self._memory, self._base + _SEQUENCE_AT)
        return bool(state == RUNNING and found == sequence)
