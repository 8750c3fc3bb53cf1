"""Handles let go of: proxies that die leave theirs here, and they are disposed of in the background, many at once.

A proxy may die anywhere (inside the garbage collector, in any thread, at the end of the interpreter), so what runs then
takes no lock, sends nothing and raises nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from venvd.errors import Busy, DeadlineExceeded, VenvdError

_GATHER = 0.02
"""Seconds in which more handles may come before they are sent."""
_RETRY = 1.0
_MOST = 1000
_TIMEOUT = 60.0
_LAST = 1.0
"""Seconds for the last batch: a session that is busy must not keep a program from ending."""

Dead = tuple["str | None", str]
"""Session and handle."""


def batches(dead: Iterable[Dead]) -> list[tuple[str | None, list[str]]]:
    """Handles by session, in lists of at most a thousand."""
    by_session: dict[str | None, list[str]] = {}
    for session, handle in dead:
        by_session.setdefault(session, []).append(handle)
    return [
        (session, handles[start : start + _MOST])
        for session, handles in by_session.items()
        for start in range(0, len(handles), _MOST)
    ]


class _Ledger:
    """The handles of this process's proxies: those alive, and `leave` for those that die."""

    def __init__(self) -> None:
        self._live: set[Dead] = set()
        self._pid = os.getpid()

    def alive(self) -> list[Dead]:
        """The handles of proxies that live."""
        return list(self._live) if self._own() else []

    def forget(self, dead: Dead) -> None:
        """Nothing needs to be sent of a handle that is not there any more."""
        self._live.discard(dead)

    def _watch(self, proxy: object, dead: Dead) -> None:
        self._live.add(dead)
        finalizer = weakref.finalize(proxy, self._died, dead)
        finalizer.atexit = False  # closing the client sends them all at once

    def _died(self, dead: Dead) -> None:
        if self._own():
            self._live.discard(dead)
            self._leave(dead)

    def _own(self) -> bool:
        """Whether the handles are this process's: a forked child must not take its parent's away."""
        return self._pid == os.getpid()

    def _leave(self, dead: Dead) -> None:
        raise NotImplementedError


class Releaser(_Ledger):
    """Disposes of handles in a thread of its own, which starts with the first handle.

    Args:
        dispose: sends one batch: session, handles, seconds that it may take.
        closed: called when nothing more will be sent.
    """

    def __init__(self, dispose: Callable[[str | None, list[str], float], None], closed: Callable[[], None]) -> None:
        super().__init__()
        self._dispose = dispose
        self._closed = closed
        self._dead: queue.SimpleQueue[Dead | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def watch(self, proxy: object, session: str | None, handle: str) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._watch(proxy, (session, handle))

    def stop(self) -> None:
        """End the thread once it has sent what is left; does not wait, so that the garbage collector may call it."""
        if self._thread is None or not self._own():
            self._closed()
        else:
            self._dead.put(None)

    def close(self) -> None:
        """Send every handle, of living proxies too, and wait for that a few seconds at most."""
        if self._own():
            for dead in list(self._live):
                self._live.discard(dead)
                self._dead.put(dead)
        self.stop()
        if self._thread is not None and self._own() and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def _leave(self, dead: Dead) -> None:
        self._dead.put(dead)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="venvd-release", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        ended = False
        while not ended:
            found = [self._dead.get()]
            if found[0] is not None:
                time.sleep(_GATHER)
            with contextlib.suppress(queue.Empty):
                while len(found) < 10 * _MOST:
                    found.append(self._dead.get_nowait())
            ended = None in found
            self._send([dead for dead in found if dead is not None], last=ended)
        self._closed()

    def _send(self, dead: list[Dead], *, last: bool) -> None:
        for session, handles in batches(dead):
            try:
                self._dispose(session, handles, _LAST if last else _TIMEOUT)
            except (Busy, DeadlineExceeded):
                if not last:
                    time.sleep(_RETRY)
                    for handle in handles:
                        self._dead.put((session, handle))
            except VenvdError:
                continue  # with the session, or the backend, its handles are gone


class AsyncReleaser(_Ledger):
    """Disposes of handles in a task of the event loop that made them."""

    def __init__(self, dispose: Callable[[str | None, list[str], float], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._dispose = dispose
        self._dead: deque[Dead] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._planned = False

    def watch(self, proxy: object, session: str | None, handle: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._watch(proxy, (session, handle))

    async def close(self) -> None:
        """Send every handle, of living proxies too."""
        if self._task is not None:
            self._task.cancel()
        if self._own():
            self._dead.extend(self._live)
            self._live.clear()
            await self._send(_LAST)

    def _leave(self, dead: Dead) -> None:
        self._dead.append(dead)
        if not self._planned and self._loop is not None and not self._loop.is_closed():
            self._planned = True
            with contextlib.suppress(RuntimeError):  # the loop may close between
                self._loop.call_soon_threadsafe(self._plan)

    def _plan(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        await asyncio.sleep(_GATHER)
        self._planned = False
        await self._send(_TIMEOUT)

    async def _send(self, seconds: float) -> None:
        dead = list(self._dead)
        self._dead.clear()
        for session, handles in batches(dead):
            try:
                await self._dispose(session, handles, seconds)
            except (Busy, DeadlineExceeded):
                # They go with the next handles that die, or with the session.
                self._dead.extend((session, handle) for handle in handles)
            except VenvdError:
                continue
