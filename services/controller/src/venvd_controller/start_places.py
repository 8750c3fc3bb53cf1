"""Limits how many starts run at the same time.

A start uses the processor of the machine that runs the backends. A limit does not make many starts faster, but each
launch is ready soon after it was made. So many starts at once do not exceed `VENVD_START_TIMEOUT`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from venvd_controller.semaphores import acquire
from venvd_engines.engine import Engine, Progress


class StartPlaces:
    """Has a place for each start that may run.

    Args:
        engine: the engine; unless `most` is given, there is one place for each of its processors.
        most: the number of places; None for one for each processor.
    """

    def __init__(self, engine: Engine, most: int | None) -> None:
        self._engine = engine
        self._most = most
        self._places: threading.BoundedSemaphore | None = None
        self._lock = threading.Lock()

    @contextmanager
    def take(self, progress: Progress) -> Iterator[Place]:
        """Hold a place until the end of the block. Wait for a free one in the phase `waiting`.

        Raises:
            Cancelled: the start is not wanted any more.
            Unavailable: the engine does not answer.
        """
        places = self._get_places()
        if places is not None:
            acquire(places, progress)
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
        """Let another start begin. A start may leave its place before it ends."""
        if self._places is not None:
            self._places.release()
            self._places = None
