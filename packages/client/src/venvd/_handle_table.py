"""The handles of a client's living proxies."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable

_LARGEST_BATCH = 1000

Handle = tuple["str | None", str]
"""Session and handle."""


def batch_by_session(handles: Iterable[Handle]) -> list[tuple[str | None, list[str]]]:
    """Group handles by session, in lists of at most a thousand."""
    by_session: dict[str | None, list[str]] = {}
    for session, handle in handles:
        by_session.setdefault(session, []).append(handle)
    return [
        (session, batch[start : start + _LARGEST_BATCH])
        for session, batch in by_session.items()
        for start in range(0, len(batch), _LARGEST_BATCH)
    ]


class HandleTable:
    """Keeps the handles of this process's living proxies. Calls `_queue` with the handle of each proxy that dies.

    A proxy may die inside the garbage collector, in any thread, and while the interpreter ends. The code that runs then
    takes no lock, sends nothing and raises nothing.
    """

    def __init__(self) -> None:
        self._live: set[Handle] = set()
        self._pid = os.getpid()

    def list_live(self) -> list[Handle]:
        """List the handles of living proxies."""
        return list(self._live) if self._is_own_process() else []

    def remove(self, handle: Handle) -> None:
        """Remove a handle that no longer exists in its session."""
        self._live.discard(handle)

    def _add(self, proxy: object, handle: Handle) -> None:
        self._live.add(handle)
        finalizer = weakref.finalize(proxy, self._on_death, handle)
        finalizer.atexit = False  # closing the client releases all handles at once

    def _on_death(self, handle: Handle) -> None:
        if self._is_own_process():
            self._live.discard(handle)
            self._queue(handle)

    def _is_own_process(self) -> bool:
        """Return whether the handles belong to this process. A forked child must not release its parent's handles."""
        return self._pid == os.getpid()

    def _queue(self, handle: Handle) -> None:
        raise NotImplementedError
