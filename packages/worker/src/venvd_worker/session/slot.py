"""The session's own slot: the session writes it when a call begins and ends, and reads the server's fields."""

from __future__ import annotations

import mmap
from time import monotonic
from typing import Union

from venvd_contract.internal.slots import AT, BEGIN, END, IDLE, RUNNING, SIZE, U32, U64


class Traffic:
    """Bytes that several streams received and sent together."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Slot:
    """The slot with this index.

    Attributes:
        sequence: number of the running call, which is also the number of calls so far.
        traffic: the traffic of direct clients.
    """

    def __init__(self, memory: Union[mmap.mmap, bytearray], index: int) -> None:
        self.move(memory, index)
        self.traffic = Traffic()

    def move(self, memory: Union[mmap.mmap, bytearray], index: int) -> None:
        """Become the slot with another index, in which no call has run."""
        self._memory = memory
        self._base = index * SIZE
        self._end = self._base + AT["state"]
        self._stop = self._base + AT["stop_sequence"]
        self._reason = self._base + AT["stop_reason"]
        self._withdrawn = self._base + AT["withdrawn"]
        self._spins = self._base + AT["spins"]
        self.sequence = 0
        self._failed = 0
        self._direct_answered = 0
        self._direct_failed = 0

    def ready(self) -> None:
        """Show that the session takes calls."""
        U32.pack_into(self._memory, self._end, IDLE)

    def begin(self, identifier: Union[int, bytes], command: bytes, timeout: float, connection: int) -> None:
        """Show that a call starts. The caller has set `sequence` before.

        Args:
            identifier: the request's ID: a whole number below 2**64, or its JSON as bytes, at most `ID_BYTES`.
            command: its name, at most `COMMAND_BYTES`.
            timeout: seconds, 0 for none.
            connection: the direct connection of the request; 0 for the server's stream.
        """
        now = monotonic()
        length = 0
        if type(identifier) is bytes:
            length = len(identifier)
            start = self._base + AT["id"]
            self._memory[start : start + length] = identifier
            identifier = 0
        deadline = now + timeout if timeout else 0.0
        BEGIN.pack_into(
            self._memory, self._base, self.sequence, now, deadline, identifier, connection, command, length, RUNNING
        )

    def end(self, handles: int, direct: bool, failed: bool) -> None:
        """Show that the call has ended, and how many handles the session has."""
        if direct:
            self._direct_answered += 1
        if failed:
            self._failed += 1
            self._direct_failed += direct
        traffic = self.traffic
        END.pack_into(
            self._memory, self._end, IDLE, self.sequence, self._failed, handles, traffic.received, traffic.sent,
            self._direct_answered, self._direct_failed,
        )  # fmt: skip

    def claim_spin(self, most: int) -> bool:
        """Claim that waits of this session spin, unless `most` others do. Return whether they may spin now."""
        self._memory[self._spins] = 1
        if sum(self._memory[AT["spins"] :: SIZE]) <= most:
            return True
        self.end_spin()
        return False

    def end_spin(self) -> None:
        """Show that waits do not spin."""
        self._memory[self._spins] = 0

    def write_heartbeat(self, number: int) -> None:
        """Show the server that the session has read its line."""
        U64.pack_into(self._memory, self._base + AT["heartbeat"], number)

    def mark_unanswered(self) -> None:
        """Show the last call as running again, because the session could not send its reply."""
        U32.pack_into(self._memory, self._end, RUNNING)

    def stop_reason(self) -> int:
        """Return `TIMEOUT` or `CANCELLED` if the running call is the one to stop, else 0."""
        (sequence,) = U64.unpack_from(self._memory, self._stop)
        if sequence != self.sequence or not sequence:
            return 0
        return int(U32.unpack_from(self._memory, self._reason)[0])

    def withdrawn(self) -> int:
        """Return the number of the server's request that must not begin any more."""
        return int(U64.unpack_from(self._memory, self._withdrawn)[0])
