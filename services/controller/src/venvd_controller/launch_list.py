"""The engine's list of launches for each turn of the reconcile loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from venvd_contract.errors import VenvdError
from venvd_engines.engine import Engine, Owned

log = logging.getLogger("venvd.controller")

_PAUSE_SECONDS = 1.0
"""Seconds before the engine is asked again to report changes."""
_MAX_AGE_SECONDS = 60.0


class LaunchList:
    """Reads the list of launches from an engine only if it may have changed.

    A thread listens to the engine. The last list is used again while the engine reports no end of a part and each
    backend of the database runs in that list.

    Args:
        on_change: called after each event.
    """

    def __init__(self, engine: Engine, on_change: Callable[[], None]) -> None:
        self._engine = engine
        self._on_change = on_change
        self._changed = threading.Event()
        self._listening = False
        self._stopping = threading.Event()
        self._launches: dict[str, Owned] = {}
        self._read_at = 0.0
        self._thread = threading.Thread(target=self._listen, name="engine events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread at its next event. A thread that waits for one ends with the process."""
        self._stopping.set()

    def read(self, known: Collection[str], started: Collection[str]) -> Mapping[str, Owned]:
        """Return the launches by their IDs.

        Args:
            known: the launches of the database.
            started: those of the known launches that the engine has started.
        """
        if not self._is_current(known, started):
            self._changed.clear()  # clear it before reading the list, so that an event in between counts
            try:
                self._launches = {owned.launch_id: owned for owned in self._engine.list_owned()}
            except BaseException:
                self._changed.set()
                raise
            self._read_at = time.monotonic()
        return self._launches

    def _is_current(self, known: Collection[str], started: Collection[str]) -> bool:
        return (
            self._listening
            and not self._changed.is_set()
            and time.monotonic() - self._read_at < _MAX_AGE_SECONDS
            and set(started) <= self._launches.keys() <= set(known)
            and all(owned.running for owned in self._launches.values())
        )

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                events = self._engine.watch()
                if events is None:
                    return
                for _ in events:
                    self._changed.set()
                    self._listening = True
                    self._on_change()
                    if self._stopping.is_set():
                        return
            except VenvdError as error:
                log.debug("the engine reports no changes: %s", error.message)
            except Exception:
                log.exception("the engine's events cannot be read")
            self._listening = False
            self._stopping.wait(_PAUSE_SECONDS)
