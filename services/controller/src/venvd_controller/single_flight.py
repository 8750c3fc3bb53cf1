"""Single flight: callers that ask for the work of a key at the same time share one run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from venvd_contract.errors import Cancelled, Internal
from venvd_engines.engine import Progress

T = TypeVar("T")

_POLL_SECONDS = 0.1
_CLEANUP_SECONDS = 30.0
"""How long the last waiter waits for the work to clean up after a cancellation, in seconds."""


class _Flight(Generic[T]):
    """Work in a separate thread. This is the `Progress` of the work, and passes everything on to the waiters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiters: list[Progress] = []
        self.ended = threading.Event()
        self.outcome: T | BaseException | None = None
        self._phase: str | None = None

    def join(self, progress: Progress) -> None:
        self.waiters.append(progress)
        if self._phase is not None:
            progress.phase(self._phase)

    def phase(self, name: str) -> None:
        if name == self._phase:
            return
        self._phase = name
        for progress in list(self.waiters):
            with contextlib.suppress(Cancelled):
                progress.phase(name)

    def log(self, line: str) -> None:
        for progress in list(self.waiters):
            with contextlib.suppress(Cancelled):
                progress.log(line)

    def check(self) -> None:
        if not self.waiters:
            raise Cancelled(f"{self.name} was cancelled")

    def run(self, work: Callable[[Progress], T]) -> None:
        try:
            self.outcome = work(self)
        except BaseException as error:  # noqa: BLE001 - raised again in every waiter
            self.outcome = error
        finally:
            self.ended.set()


class SingleFlight(Generic[T]):
    """Runs the work of a key once at a time. Later callers join the run."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._lock = threading.Lock()

    def run(self, key: Hashable, name: str, work: Callable[[Progress], T], progress: Progress) -> T:
        """Return the result of `work`. Start it unless the work of the key runs already.

        `name` names the work in errors and threads. `progress` gets its phases and log lines from now on.

        Raises:
            Cancelled: raised by `progress.check`. The work goes on while another caller waits for it.
            BaseException: the error that the work raised.
        """
        flight = self._join(key, name, work, progress)
        try:
            while not flight.ended.wait(_POLL_SECONDS):
                progress.check()
        finally:
            self._leave(key, flight, progress)
        if isinstance(flight.outcome, BaseException):
            raise flight.outcome
        if flight.outcome is None:
            raise Internal(f"{name} ended without a result")
        return flight.outcome

    def _join(self, key: Hashable, name: str, work: Callable[[Progress], T], progress: Progress) -> _Flight[T]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and not flight.ended.is_set():
                flight.join(progress)
            else:
                flight = self._flights[key] = _Flight(name)
                flight.join(progress)
                threading.Thread(target=flight.run, args=(work,), name=name, daemon=True).start()
            return flight

    def _leave(self, key: Hashable, flight: _Flight[T], progress: Progress) -> None:
        with self._lock:
            flight.waiters.remove(progress)
            if flight.waiters:
                return
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.ended.wait(_CLEANUP_SECONDS)
