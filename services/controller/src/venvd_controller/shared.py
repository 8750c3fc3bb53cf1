"""One job for each key, however many want its result."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from venvd_contract.errors import Cancelled, Internal
from venvd_engines.engine import Progress

T = TypeVar("T")

_TICK = 0.1
_ENDING = 30.0
"""Seconds that the last who leaves waits for the job to tidy up."""


class _Job(Generic[T]):
    """The job's own progress: told to all who want it, and cancelled when nobody does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanting: list[Progress] = []
        self.ended = threading.Event()
        self.outcome: T | BaseException | None = None
        self._phase: str | None = None

    def join(self, progress: Progress) -> None:
        self.wanting.append(progress)
        if self._phase is not None:
            progress.phase(self._phase)

    def phase(self, name: str) -> None:
        if name == self._phase:
            return
        self._phase = name
        for progress in list(self.wanting):
            with contextlib.suppress(Cancelled):
                progress.phase(name)

    def log(self, line: str) -> None:
        for progress in list(self.wanting):
            with contextlib.suppress(Cancelled):
                progress.log(line)

    def check(self) -> None:
        if not self.wanting:
            raise Cancelled(f"{self.name} was cancelled")

    def run(self, work: Callable[[Progress], T]) -> None:
        try:
            self.outcome = work(self)
        except BaseException as error:  # noqa: BLE001 - raised again in those who wait
            self.outcome = error
        finally:
            self.ended.set()


class SharedWork(Generic[T]):
    """Work in threads of its own: those who want the same key join what runs already."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job[T]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, name: str, work: Callable[[Progress], T], progress: Progress) -> T:
        """The result of `work`, begun where nobody has yet; `progress` hears of it from here on.

        Raises:
            Cancelled: by `progress.check`; the work itself goes on for as long as anybody else wants it.
            BaseException: whatever the work raised.
        """
        job = self._join(key, name, work, progress)
        try:
            while not job.ended.wait(_TICK):
                progress.check()
        finally:
            self._leave(key, job, progress)
        if isinstance(job.outcome, BaseException):
            raise job.outcome
        if job.outcome is None:
            raise Internal(f"{name} ended without a result")
        return job.outcome

    def _join(self, key: Hashable, name: str, work: Callable[[Progress], T], progress: Progress) -> _Job[T]:
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.ended.is_set():
                job = self._jobs[key] = _Job(name)
                job.join(progress)
                threading.Thread(target=job.run, args=(work,), name=name, daemon=True).start()
            else:
                job.join(progress)
            return job

    def _leave(self, key: Hashable, job: _Job[T], progress: Progress) -> None:
        with self._lock:
            job.wanting.remove(progress)
            if job.wanting:
                return
            if self._jobs.get(key) is job:
                del self._jobs[key]
        job.ended.wait(_ENDING)
