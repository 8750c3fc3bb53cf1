"""Detecting that the peer of a Unix socket has hung up."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class HangupWatcher:
    """Reports hang-ups of peers, even on connections that the server does not read.

    The event loop notices a hang-up only when it reads. It does not read a paused connection, or one whose peer has
    shut down its side. A separate epoll reports hang-ups even if it asks for no events.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._poll)

    def watch(self, descriptor: int, on_hangup: Callable[[], None]) -> None:
        """Call `on_hangup` once when the peer of `descriptor` hangs up."""
        self._callbacks[descriptor] = on_hangup
        self._epoll.register(descriptor, 0)

    def unwatch(self, descriptor: int, on_hangup: Callable[[], None] | None = None) -> None:
        """Stop watching.

        If `descriptor` may be closed, pass the registered `on_hangup`. The number may belong to another connection by
        now, which then stays watched.
        """
        if on_hangup is not None and self._callbacks.get(descriptor) != on_hangup:
            return
        self._callbacks.pop(descriptor, None)
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            return  # closing the descriptor has unregistered it

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            on_hangup = self._callbacks.get(descriptor)
            self.unwatch(descriptor)
            if on_hangup is not None:
                on_hangup()
