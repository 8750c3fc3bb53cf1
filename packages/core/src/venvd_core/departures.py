"""When the peer at the other end of a Unix socket is gone."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Departures:
    """Tells when a peer hangs up, even while nothing is read from it.

    The event loop learns of it by reading alone, and a connection that is held back, or whose writing has ended, is
    not read. An epoll of its own that asks for nothing is told of hang-ups only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._tell)

    def watch(self, descriptor: int, gone: Callable[[], None]) -> None:
        self._watched[descriptor] = gone
        self._epoll.register(descriptor, 0)

    def forget(self, descriptor: int, gone: Callable[[], None]) -> None:
        """Stop watching; nothing where the descriptor's number belongs to another connection by now."""
        if self._watched.get(descriptor) == gone:
            self.drop(descriptor)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _tell(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            gone = self._watched.get(descriptor)
            self.drop(descriptor)
            if gone is not None:
                gone()

    def drop(self, descriptor: int) -> None:
        """Stop watching a descriptor that is still open."""
        self._watched.pop(descriptor, None)
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            return  # it was closed, which unregisters it
