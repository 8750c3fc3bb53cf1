"""Semaphores that operations wait for."""

from __future__ import annotations

import threading

from venvd_engines.engine import Progress

_CHECK_SECONDS = 0.05


def acquire(semaphore: threading.Semaphore, progress: Progress) -> None:
    """Acquire a semaphore. Wait for it in the phase `waiting`.

    Raises:
        Cancelled: the operation was cancelled meanwhile.
    """
    if semaphore.acquire(blocking=False):
        return
    progress.phase("waiting")
    while not semaphore.acquire(timeout=_CHECK_SECONDS):
        progress.check()
