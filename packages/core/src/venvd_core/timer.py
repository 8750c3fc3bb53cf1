"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class DeadlineTimer:
    """Calls `on_due` at the earliest scheduled time; `on_due` returns the next time, or None.

    A timer for each call would make every call slower. This timer moves only to an earlier time. A call that ends
    before its deadline does not touch it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[float], float | None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self.due = float("inf")
        """When the timer fires; `time.monotonic`."""

    def schedule(self, when: float) -> None:
        """Fire at `when` (`time.monotonic`) at the latest."""
        if when < self.due:
            self.cancel()
            self.due = when
            self._timer = self._loop.call_later(max(0.001, when - time.monotonic()), self._fire)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.due = None, float("inf")

    def _fire(self) -> None:
        self._timer, self.due = None, float("inf")
        next_due = self._on_due(time.monotonic())
        if next_due is not None:
            self.schedule(next_due)
