"""Whether a session that says that it is idle still hears: nobody else would end what direct clients wait for."""

from __future__ import annotations

from enum import Enum

from venvd_core.slots import IDLE, SlotState

_SHARE, _LONGEST_PAUSE = 10, 30.0
"""Parts of its patience after which an idle session is asked again, and seconds at most."""


class Sign(Enum):
    """What is to be done about a session."""

    NONE = 0
    ASK = 1
    DEAD = 2


class Pulse:
    """Asks a session that begins no call, now and then, to write down a number.

    Args:
        patience: seconds after which one that did not, and begins no call either, will not any more.
    """

    def __init__(self, patience: float) -> None:
        self.number = 0
        """The last one that it was asked to write down."""
        self._patience = patience
        self._pause = min(patience / _SHARE, _LONGEST_PAUSE)
        self._asked = False
        self._sequence = 0
        self._since = 0.0

    def look(self, slot: SlotState, now: float) -> Sign:
        """What follows from what its slot says `now` (`time.monotonic`)."""
        heard = self._asked and slot.heard == self.number
        if heard or slot.state != IDLE or slot.sequence != self._sequence:
            self._asked, self._sequence, self._since = False, slot.sequence, now
        elif self._asked:
            return Sign.DEAD if now - self._since >= self._patience else Sign.NONE
        elif now - self._since >= self._pause:
            self._asked, self._since = True, now
            self.number += 1
            return Sign.ASK
        return Sign.NONE
