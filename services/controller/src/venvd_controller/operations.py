"""Long work: queued, run in threads, followed by its events, cancelled, and taken up again after a restart."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from venvd_contract.errors import Cancelled, Internal, NotFound, VenvdError
from venvd_contract.resources import Event, OperationInfo, Phase
from venvd_controller.clock import elapsed, now
from venvd_controller.database import Database
from venvd_controller.database.tables import EventRow, OperationRow

log = logging.getLogger("venvd.controller")

DONE = frozenset({"succeeded", "failed", "cancelled"})
MAX_EVENTS = 10_000
"""Events kept of one operation; later lines of its log are dropped, and that is said."""
_KEEP = 500
"""Operations kept."""

Work = Callable[[str, "Run"], None]


class Run:
    """One running operation: the `Progress` that engines are given."""

    def __init__(self, operations: Operations, key: str) -> None:
        self._operations = operations
        self.key = key
        self.cancelled = threading.Event()
        self._count = operations.count_events(key)

    def phase(self, name: str) -> None:
        self.check()
        self._operations.begin_phase(self.key, name)
        self._emit("phase", name)

    def log(self, line: str) -> None:
        if self._count < MAX_EVENTS:
            self._emit("log", line)
        elif self._count == MAX_EVENTS:
            self._emit("log", f"… the log is longer than {MAX_EVENTS} lines; the rest is dropped")

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("the operation was cancelled")

    def _emit(self, kind: str, data: Any) -> None:
        self._count += 1
        self._operations.add_event(self.key, self._count, kind, data)


class Operations:
    """All operations of a controller; `register` says what each kind does."""

    def __init__(self, database: Database, workers: int) -> None:
        self._database = database
        self._work: dict[str, Work] = {}
        self._runs: dict[str, Run] = {}
        self._queue: deque[str] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.on_done: Callable[[str, str, float], None] = _nobody
        """Told kind, outcome and seconds of each operation that ended."""
        self._threads = [
            threading.Thread(target=self._serve, name=f"operation-{n}", daemon=True) for n in range(workers)
        ]

    def register(self, kind: str, work: Work) -> None:
        self._work[kind] = work

    def start(self) -> None:
        """Take up what a controller before this one left, then serve."""
        with self._database.begin() as session:
            left = session.scalars(
                select(OperationRow)
                .where(OperationRow.state.in_(("queued", "running")))
                .order_by(OperationRow.created_at)
            ).all()
            for row in left:
                row.state, row.phases = "queued", []
        self._queue.extend(row.id for row in left)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop serving. What runs is left as it is: the next controller takes it up."""
        with self._changed:
            self._stopping = True
            for run in self._runs.values():
                run.cancelled.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    # ---- what callers do ----

    def submit(self, kind: str, target: str) -> OperationInfo:
        """Queue work; where the same work waits already, that."""
        with self._changed:
            waiting = self._find(kind, target, ("queued",))
            if waiting is not None:
                return waiting
            row = OperationRow(
                id=secrets.token_hex(8), kind=kind, target=target, state="queued", created_at=now(), phases=[]
            )
            with self._database.begin() as session:
                session.add(row)
            self._queue.append(row.id)
            self._changed.notify_all()
        self._forget_old()
        return _info(row)

    def active(self, kind: str, target: str) -> OperationInfo | None:
        """The operation of that kind that waits or runs for that target."""
        return self._find(kind, target, ("queued", "running"))

    def _find(self, kind: str, target: str, states: tuple[str, ...]) -> OperationInfo | None:
        query = select(OperationRow).where(
            OperationRow.kind == kind, OperationRow.target == target, OperationRow.state.in_(states)
        )
        with self._database() as session:
            row = session.scalars(query).first()
        return _info(row) if row else None

    def get(self, key: str) -> OperationInfo:
        with self._database() as session:
            row = session.get(OperationRow, key)
        if row is None:
            raise NotFound(f'no operation "{key[:40]}"')
        return _info(row)

    def all(self) -> list[OperationInfo]:
        """All that are kept, newest first."""
        with self._database() as session:
            rows = session.scalars(select(OperationRow).order_by(OperationRow.created_at.desc(), OperationRow.id)).all()
        return [_info(row) for row in rows]

    def cancel(self, key: str) -> OperationInfo:
        """Ask that an operation stop; one that is done stays as it is."""
        info = self.get(key)
        with self._changed:
            run = self._runs.get(key)
            if run is not None:
                run.cancelled.set()
            elif info.state == "queued" and key in self._queue:
                self._queue.remove(key)
                self._finish(key, "cancelled", Cancelled("the operation was cancelled before it began"))
        return self.get(key)

    def wait(self, key: str, seconds: float) -> OperationInfo:
        """The operation once it is done, or as it is after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self.get(key).state in DONE, seconds)
        return self.get(key)

    def follow(self, key: str, after: int) -> Iterator[Event | None]:
        """Events with an ID beyond `after`, as they come, up to that of kind `done`; None where a while was quiet."""
        while True:
            info = self.get(key)
            events = self._events(key, after)
            for event in events:
                after = event.id
                yield event
            if info.state in DONE and not events:
                yield Event(after + 1, "done", asdict(info))
                return
            if not events:
                with self._changed:
                    if not self._changed.wait_for(lambda seen=after: self._more(key, seen), 10):  # type: ignore[misc]
                        yield None

    def _more(self, key: str, after: int) -> bool:
        return self._stopping or self.get(key).state in DONE or bool(self._events(key, after))

    def _events(self, key: str, after: int) -> list[Event]:
        query = select(EventRow).where(EventRow.operation == key, EventRow.id > after).order_by(EventRow.id).limit(500)
        with self._database() as session:
            return [Event(row.id, row.kind, row.data) for row in session.scalars(query)]

    # ---- what runs do ----

    def count_events(self, key: str) -> int:
        query = select(EventRow.id).where(EventRow.operation == key).order_by(EventRow.id.desc()).limit(1)
        with self._database() as session:
            return session.scalar(query) or 0

    def add_event(self, key: str, number: int, kind: str, data: Any) -> None:
        with self._database.begin() as session:
            session.add(EventRow(operation=key, id=number, kind=kind, data=data))
        with self._changed:
            self._changed.notify_all()

    def begin_phase(self, key: str, name: str) -> None:
        with self._database.begin() as session:
            row = session.get_one(OperationRow, key)
            if row.phases and row.phases[-1]["name"] == name:
                return
            row.phases = [*_ended(row.phases), asdict(Phase(name, now()))]

    # ---- threads ----

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                key = self._queue.popleft()
                run = self._runs[key] = Run(self, key)
            try:
                self._perform(run)
            finally:
                with self._changed:
                    del self._runs[key]
                    self._changed.notify_all()

    def _perform(self, run: Run) -> None:
        with self._database.begin() as session:
            row = session.get_one(OperationRow, run.key)
            row.state, row.started_at = "running", row.started_at or now()
        try:
            self._work[row.kind](row.target, run)
        except Cancelled as error:
            if not self._stopping:
                self._finish(run.key, "cancelled", error)
        except VenvdError as error:
            self._finish(run.key, "failed", error)
        except Exception as error:
            log.exception("operation %s failed", run.key)
            self._finish(run.key, "failed", Internal(f"a defect of the controller: {error!r}"))
        else:
            self._finish(run.key, "succeeded", None)

    def _finish(self, key: str, state: str, error: VenvdError | None) -> None:
        with self._database.begin() as session:
            row = session.get_one(OperationRow, key)
            row.state, row.ended_at, row.phases = state, now(), _ended(row.phases)
            row.error = error.problem() if error else None
        self.on_done(row.kind, state, elapsed(row.started_at or row.created_at, row.ended_at))
        with self._changed:
            self._changed.notify_all()

    def _forget_old(self) -> None:
        with self._database.begin() as session:
            query = select(OperationRow).where(OperationRow.state.in_(DONE)).order_by(OperationRow.created_at.desc())
            for row in session.scalars(query.offset(_KEEP)):
                session.delete(row)


def _nobody(_kind: str, _state: str, _seconds: float) -> None:
    """Told of what nobody measures."""


def _ended(phases: list[Any]) -> list[Any]:
    return [{**phase, "endedAt": phase["endedAt"] or now()} for phase in phases]


def _info(row: OperationRow) -> OperationInfo:
    return OperationInfo(
        id=row.id,
        kind=row.kind,
        target=row.target,
        state=row.state,
        createdAt=row.created_at,
        startedAt=row.started_at,
        endedAt=row.ended_at,
        phases=[Phase(**phase) for phase in row.phases],
        error=row.error,
    )
