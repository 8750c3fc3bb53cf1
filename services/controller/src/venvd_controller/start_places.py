"""The starts that may run at the same time.

A start takes the processor of the machine that runs the backends. Twelve starts at once keep each other and the engine
waiting: together they take twice as long as two at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from venvd_engines.engine import Engine, Progress

_PAUSE = 0.05


class StartPlaces:
    """Has a place for each start that may run.

    Args:
        engine: its processors are the number of places, unless `most` is given.
        most: the number of places; None for one a processor.
    """

    def __init__(self, engine: Engine, most: int | None) -> None:
        self._engine = engine
        self._most = most
        self._places: threading.BoundedSemaphore | None = None
        self._lock = threading.Lock()

    @contextmanager
    def take(self, progress: Progress) -> Iterator[Place]:
        """Hold a place; wait for one in the phase `waiting`.

        Raises:
            Cancelled: the start is not wanted any more.
            Unavailable: the engine does not answer.
        """
        places = self._get_places()
        if places is not None:
            while not places.acquire(timeout=_PAUSE):
                progress.phase("waiting")
                progress.check()
        place = Place(places)
        try:
            yield place
        finally:
            place.leave()

    def _get_places(self) -> threading.BoundedSemaphore | None:
        with self._lock:
            if self._places is None:
                count = self._most or self._engine.count_processors()
                self._places = None if count is None else threading.BoundedSemaphore(count)
            return self._places


class Place:
    """The place of one start."""

    def __init__(self, places: threading.BoundedSemaphore | None) -> None:
        self._places = places

    def leave(self) -> None:
        """Let another start begin; a start may leave its place before it ends."""
        if self._places is not None:
            self._places.release()
            self._places = None
