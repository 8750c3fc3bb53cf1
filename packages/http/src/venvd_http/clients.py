"""Clients that disconnect."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from venvd_http.asgi import Receive

_INTERVAL = 0.1

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection, so the server cannot answer it."""


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects or the response is complete. The body of the request must be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


class DisconnectWatch:
    """Cancels the call of a client that disconnects.

    A task for each call would take too much time. So the watch starts one only for a call that lasts longer than a
    tenth of a second.
    """

    def __init__(self) -> None:
        self._new: dict[asyncio.Future[Any], Receive] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, future: asyncio.Future[Any], receive: Receive) -> None:
        """Cancel `future` when the client of `receive` disconnects."""
        self._new[future] = receive
        if self._timer is None:
            self._timer = future.get_loop().call_later(_INTERVAL, self._tick)

    async def wait(self, future: asyncio.Future[T], receive: Receive) -> T:
        """Wait for `future` and return its result.

        Raises:
            ClientGone: the client disconnected, and `future` is cancelled.
        """
        self.add(future, receive)
        try:
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if future.cancelled() and task is not None and not task.cancelling():
                raise ClientGone from None
            raise
        finally:
            self._new.pop(future, None)

    def _tick(self) -> None:
        self._timer = None
        new, self._new = self._new, {}
        for future, receive in new.items():
            if not future.done():
                task = asyncio.ensure_future(_cancel_on_disconnect(future, receive))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)


async def _cancel_on_disconnect(future: asyncio.Future[Any], receive: Receive) -> None:
    await wait_for_disconnect(receive)
    future.cancel()
