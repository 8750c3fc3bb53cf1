"""Callbacks of calls in the background. One thread or task waits for the end of a call and runs them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from venvd.errors import VenvdError

_log = logging.getLogger("venvd")

Callback = Callable[[Any], object]


class DoneCallbacks:
    """The callbacks of one call, which a thread runs.

    Args:
        call: the argument of the callbacks.
        wait: returns when the call has ended.
    """

    def __init__(self, call: object, wait: Callable[[], object]) -> None:
        self._call = call
        self._wait = wait
        self._lock = threading.Lock()
        self._waiting: list[Callback] | None = None

    def add(self, callback: Callback) -> None:
        """Have `callback` called once, when the call has ended."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(callback)
                return
            self._waiting = [callback]
        threading.Thread(target=self._run, name="venvd-done-callbacks", daemon=True).start()

    def _run(self) -> None:
        try:
            self._wait()
        except VenvdError as error:
            _log.debug("%r can no longer be waited for: %s", self._call, error)
        while True:
            with self._lock:
                callbacks, self._waiting = self._waiting, [] if self._waiting else None
            if not callbacks:
                return
            for callback in callbacks:
                run_callback(callback, self._call)


class AsyncDoneCallbacks:
    """The callbacks of one call, which a task of an event loop runs."""

    def __init__(self, call: object, wait: Callable[[], Awaitable[object]]) -> None:
        self._call = call
        self._wait = wait
        self._task: asyncio.Task[None] | None = None

    def add(self, callback: Callback) -> None:
        """Have `callback` called once, when the call has ended."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda _: run_callback(callback, self._call))

    async def _run(self) -> None:
        try:
            await self._wait()
        except VenvdError as error:
            _log.debug("%r can no longer be waited for: %s", self._call, error)


def run_callback(callback: Callback, call: object) -> None:
    """Run one callback, and log what it raises."""
    try:
        callback(call)
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        _log.exception("a callback of %r failed", call)
