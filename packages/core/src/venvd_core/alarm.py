"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Alarm:
    """Calls `on_due` when the earliest wanted time has come; it answers with the next one, or None.

    A timer for each call would cost every call one; this one is moved only where an earlier time is wanted, and calls
    that ended before their deadline leave it as it is.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[float], float | None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self.at = float("inf")
        """When it is due."""

    def want(self, when: float) -> None:
        """Be due at `when` (`time.monotonic`) at the latest."""
        if when < self.at:
            self.cancel()
            self.at = when
            self._timer = self._loop.call_later(max(0.001, when - time.monotonic()), self._ring)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.at = None, float("inf")

    def _ring(self) -> None:
        self._timer, self.at = None, float("inf")
        following = self._on_due(time.monotonic())
        if following is not None:
            self.want(following)
