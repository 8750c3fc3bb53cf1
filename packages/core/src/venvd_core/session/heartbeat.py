"""Detects sessions that hang between calls.

A call that hangs has a deadline, and the server ends it. A session that hangs between calls (for example in the
`__del__` of an expired handle) has no deadline, and its direct clients would wait for ever.
"""

from __future__ import annotations

from enum import Enum

from venvd_contract.internal.slots import IDLE
from venvd_core.slots import SlotState

_ASKS_PER_TIMEOUT = 10
_LONGEST_PAUSE = 30.0


class Action(Enum):
    """The verdict on a session."""

    NONE = 0
    ASK = 1
    END = 2


class Heartbeat:
    """Asks an idle session from time to time to write a number into its slot.

    Args:
        timeout: seconds in which the session must write the number or begin a call; else it hangs.
    """

    def __init__(self, timeout: float) -> None:
        self.number = 0
        """The last number that the server asked for."""
        self._timeout = timeout
        self._pause = min(timeout / _ASKS_PER_TIMEOUT, _LONGEST_PAUSE)
        self._asked = False
        self._sequence = 0
        self._since = 0.0

    def check(self, slot: SlotState, now: float) -> Action:
        """Decide from the session's slot at `now` (`time.monotonic`)."""
        answered = self._asked and slot.heartbeat == self.number
        if answered or slot.state != IDLE or slot.sequence != self._sequence:
            self._asked, self._sequence, self._since = False, slot.sequence, now
        elif self._asked:
            return Action.END if now - self._since >= self._timeout else Action.NONE
        elif now - self._since >= self._pause:
            self._asked, self._since = True, now
            self.number += 1
            return Action.ASK
        return Action.NONE
