"""Lets a session spin between the calls of a fast sequence."""

from __future__ import annotations

from _thread import _count as count_threads
from typing import Callable, List, Tuple

from venvd_contract.spinning import Spinner
from venvd_worker.session.slot import Slot

Ready = List[Tuple[int, int]]


class SessionSpinner(Spinner[Ready]):
    """Spins unless user code runs in threads, which need the interpreter, or enough other sessions spin.

    Args:
        slot: shows other sessions that this one spins.
        most: how many sessions may spin.
    """

    __slots__ = ("_claimed", "_most", "_slot")

    def __init__(self, look: Callable[[], Ready], microseconds: int, slot: Slot, most: int) -> None:
        super().__init__(look, microseconds if most > 0 else 0)
        self._slot = slot
        self._most = most
        self._claimed = False

    def begin(self) -> bool:
        if count_threads():
            return False
        if not self._claimed:
            self._claimed = self._slot.claim_spin(self._most)
        return self._claimed

    def stop(self) -> None:
        if self._claimed:
            self._claimed = False
            self._slot.end_spin()
