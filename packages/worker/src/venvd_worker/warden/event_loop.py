"""The warden's event loop: descriptors and timers on one thread."""

from __future__ import annotations

import heapq
import itertools
import select
from time import monotonic
from typing import Callable, Dict, List, Protocol, Tuple

Action = Callable[[], object]


class Source(Protocol):
    def fileno(self) -> int: ...


class Descriptor:
    """A source that consists of a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


class EventLoop:
    """Calls each action when its source is readable or its time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._actions: Dict[int, Action] = {}
        self._timers: List[Tuple[float, int, Action]] = []
        self._order = itertools.count()

    def add(self, source: Source, action: Action, events: int = select.EPOLLIN) -> None:
        self._actions[source.fileno()] = action
        self._epoll.register(source.fileno(), events)

    def remove(self, source: Source) -> None:
        """Forget a source. An unknown source is not an error."""
        if self._actions.pop(source.fileno(), None) is not None:
            self._epoll.unregister(source.fileno())

    def call_later(self, seconds: float, action: Action) -> None:
        heapq.heappush(self._timers, (monotonic() + seconds, next(self._order), action))

    def run_once(self) -> None:
        """Wait for the next events or timer, and call the actions."""
        timeout = max(0.0, self._timers[0][0] - monotonic()) if self._timers else -1
        for descriptor, _ in self._epoll.poll(timeout):
            action = self._actions.get(descriptor)
            if action is not None:
                action()
        while self._timers and self._timers[0][0] <= monotonic():
            heapq.heappop(self._timers)[2]()
