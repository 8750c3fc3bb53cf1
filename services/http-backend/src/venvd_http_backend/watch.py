"""A client that goes away cancels its call."""

from __future__ import annotations

import asyncio
from typing import Any

from venvd_core.monitor import Receive

_EVERY = 0.1


class Watch:
    """Looks for clients that went away, for calls that take longer than a moment.

    To learn of it at once would cost every call a task; so calls are noted, and only those that are still there at the
    next tick get one.
    """

    def __init__(self) -> None:
        self._noted: dict[asyncio.Future[Any], Receive] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, future: asyncio.Future[Any], receive: Receive) -> None:
        self._noted[future] = receive
        if self._timer is None:
            self._timer = future.get_loop().call_later(_EVERY, self._tick)

    def forget(self, future: asyncio.Future[Any]) -> None:
        self._noted.pop(future, None)

    def _tick(self) -> None:
        self._timer = None
        noted, self._noted = self._noted, {}
        for future, receive in noted.items():
            if not future.done():
                task = asyncio.ensure_future(_until_gone(future, receive))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


async def _until_gone(future: asyncio.Future[Any], receive: Receive) -> None:
    """Once the request is read, all that is left to receive is its end, the response's or the connection's."""
    while (await receive())["type"] != "http.disconnect":
        pass
    future.cancel()
