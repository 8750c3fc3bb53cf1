"""Long work: queued in the database, run in threads, cancelled, and taken up again after a restart."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Internal, NotFound, VenvdError
from venvd_contract.resources import Event, OperationInfo, Phase
from venvd_controller.clock import elapsed, now
from venvd_controller.database import Database, after_commit
from venvd_controller.database.tables import EventRow, OperationRow

log = logging.getLogger("venvd.controller")

ACTIVE = ("queued", "running")
DONE = frozenset({"succeeded", "failed", "cancelled"})
MAX_EVENTS = 10_000
"""Events kept of one operation; later lines of its log are dropped, and that is said."""
_MAX_LINE = 4000
"""Characters kept of one line."""
_KEEP = 500
"""Operations kept."""
_AT_ONCE = 500
"""Events read at a time."""
_RETRY = 1.0


class Run:
    """One running operation: the `Progress` that engines are given."""

    def __init__(self, operations: Operations, row: OperationRow, *, again: bool) -> None:
        self._operations = operations
        self.id, self.kind, self.target, self.again = row.id, row.kind, row.target, again
        self.cancelled = threading.Event()
        self._adding = threading.Lock()
        self._count = operations.count_events(self.id)

    @property
    def closing(self) -> bool:
        """Whether the controller stops, so that the next one takes this up."""
        return self._operations.closing

    def phase(self, name: str) -> None:
        if self._operations.begin_phase(self.id, name):
            self._add("phase", name)

    def log(self, line: str) -> None:
        if self._count < MAX_EVENTS:
            self._add("log", _storable(line))
        elif self._count == MAX_EVENTS:
            self._add("log", f"… the log is longer than {MAX_EVENTS} lines; the rest is dropped")

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("the operation was cancelled")

    def _add(self, kind: str, text: str) -> None:
        with self._adding:
            self._count += 1
            self._operations.add_event(self.id, self._count, kind, text)


@dataclass(frozen=True)
class Kind:
    """What operations of one kind do.

    Attributes:
        work: does it for a target, and may do so again after a crash.
        failed: notes in the transaction that ends the operation why its target did not become what it should; called
            with target, operation and error. A target that another operation sees to by now is left alone.
    """

    work: Callable[[str, Run], None]
    failed: Callable[[Session, str, str, VenvdError], None]


class Operations:
    """All operations of a controller; `register` says what each kind does."""

    def __init__(self, database: Database, at_once: int) -> None:
        self._database = database
        self._at_once = at_once
        self._kinds: dict[str, Kind] = {}
        self._runs: dict[str, Run] = {}
        self._runs_lock = threading.Lock()
        self._listeners: list[tuple[str, Callable[[], None]]] = []
        self._wake = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name="operations", daemon=True)
        self.closing = False
        self.on_done: list[Callable[[str, str, float], None]] = []
        """Told kind, outcome and seconds of each operation that ended."""

    def register(self, kind: str, work: Kind) -> None:
        self._kinds[kind] = work

    def start(self) -> None:
        """Take up what a controller before this one left, then serve."""
        with self._database.write() as session:
            for row in session.scalars(select(OperationRow).where(OperationRow.state == "running")):
                row.state, row.phases = "queued", []
        self._dispatcher.start()

    def close_followers(self) -> None:
        """Let go of all who follow an operation."""
        self.closing = True
        for _, call in list(self._listeners):
            call()

    def stop(self, seconds: float = 15.0) -> None:
        """Stop serving, for which what runs has some seconds; the next controller takes it up."""
        self.close_followers()
        self._wake.set()
        end = time.monotonic() + seconds
        if self._dispatcher.is_alive():
            self._dispatcher.join(seconds)
        while (runs := self._running()) and time.monotonic() < end:
            for run in runs:
                run.cancelled.set()
            time.sleep(0.02)

    # ---- what callers do: inside their own transaction ----

    def submit(self, session: Session, kind: str, target: str) -> OperationInfo:
        """Queue work, which begins once the transaction is kept."""
        key = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
        row = OperationRow(id=key, kind=kind, target=target, state="queued", created_at=now(), phases=[])
        session.add(row)
        session.flush()
        self._forget_old(session)
        after_commit(session, self._wake.set)
        return _info(row)

    def active(self, session: Session, kind: str, target: str) -> OperationInfo | None:
        """The newest operation of that kind that waits or runs for that target."""
        row = self._active_row(session, kind, target)
        return _info(row) if row else None

    def _active_row(self, session: Session, kind: str, target: str) -> OperationRow | None:
        query = select(OperationRow).where(
            OperationRow.kind == kind, OperationRow.target == target, OperationRow.state.in_(ACTIVE)
        )
        return session.scalars(query.order_by(OperationRow.id.desc())).first()

    def cancel_active(self, session: Session, kind: str, target: str) -> OperationInfo | None:
        """Cancel what waits or runs for that target; gives it."""
        row = self._active_row(session, kind, target)
        if row is not None:
            self._cancel(session, row)
        return _info(row) if row else None

    def cancel(self, key: str) -> OperationInfo:
        """Ask that an operation stop; one that is done stays as it is."""
        with self._database.write() as session:
            self._cancel(session, self._row(session, key))
        return self.get(key)

    def _cancel(self, session: Session, row: OperationRow) -> None:
        if row.state == "queued":
            self._end(session, row, Cancelled("the operation was cancelled before it began"))
        elif row.state == "running":
            key = row.id
            after_commit(session, lambda: self._stop_run(key))

    def _stop_run(self, key: str) -> None:
        with self._runs_lock:
            run = self._runs.get(key)
        if run is not None:
            run.cancelled.set()

    # ---- what callers read ----

    def get(self, key: str) -> OperationInfo:
        with self._database.read() as session:
            return _info(self._row(session, key))

    def _row(self, session: Session, key: str) -> OperationRow:
        row = session.get(OperationRow, key)
        if row is None:
            raise NotFound(f'no operation "{key[:40]}"; the last {_KEEP} are kept')
        return row

    def all(self, after: str | None, limit: int, **fields: str | None) -> Sequence[OperationInfo]:
        """Operations before `after`, newest first; `fields` are columns and the values they must have."""
        query = select(OperationRow).order_by(OperationRow.id.desc()).limit(limit)
        for name, value in fields.items():
            if value is not None:
                column: ColumnElement[str] = getattr(OperationRow, name)
                query = query.where(column == value)
        if after is not None:
            query = query.where(OperationRow.id < after)
        with self._database.read() as session:
            return [_info(row) for row in session.scalars(query)]

    def counts(self, states: Sequence[str] = (*ACTIVE, *DONE)) -> Counter[tuple[str, str]]:
        """How many there are of each kind in each of these states."""
        query = select(OperationRow.kind, OperationRow.state, func.count()).where(OperationRow.state.in_(states))
        with self._database.read() as session:
            found = session.execute(query.group_by(OperationRow.kind, OperationRow.state))
            return Counter({(kind, state): count for kind, state, count in found})

    def targets(self, kind: str | None = None) -> set[str]:
        """What operations wait or run for."""
        query = select(OperationRow.target).where(OperationRow.state.in_(ACTIVE))
        with self._database.read() as session:
            return set(session.scalars(query if kind is None else query.where(OperationRow.kind == kind)))

    def wait(self, key: str, seconds: float) -> OperationInfo:
        """The operation once it is done, or as it is after `seconds`."""
        changed = threading.Event()
        end = time.monotonic() + seconds
        with self.listening(key, changed.set):
            while (info := self.get(key)).state not in DONE and (left := end - time.monotonic()) > 0:
                changed.wait(left)
                changed.clear()
        return info

    def since(self, key: str, after: int) -> list[Event]:
        """Events with an ID beyond `after`, oldest first, at most some hundred; the last of all is of kind `done`."""
        query = select(EventRow).where(EventRow.operation == key, EventRow.id > after)
        with self._database.read() as session:
            info = _info(self._row(session, key))
            rows = session.scalars(query.order_by(EventRow.id).limit(_AT_ONCE)).all()
        events = [Event(row.id, row.kind, row.data) for row in rows]
        if info.state in DONE and len(events) < _AT_ONCE:
            last = events[-1].id if events else max(after, self.count_events(key))
            events.append(Event(last + 1, "done", asdict(info)))
        return events

    @contextmanager
    def listening(self, key: str, call: Callable[[], None]) -> Iterator[None]:
        """Have `call` called, from any thread, whenever that operation changed."""
        listener = (key, call)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _notify(self, key: str) -> None:
        for listened, call in list(self._listeners):
            if listened == key:
                call()

    # ---- what runs do ----

    def count_events(self, key: str) -> int:
        query = select(func.max(EventRow.id)).where(EventRow.operation == key)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def add_event(self, key: str, number: int, kind: str, data: str) -> None:
        with self._database.write() as session:
            session.add(EventRow(operation=key, id=number, kind=kind, data=data))
        self._notify(key)

    def begin_phase(self, key: str, name: str) -> bool:
        """Whether that is a new phase."""
        with self._database.write() as session:
            row = session.get_one(OperationRow, key)
            if row.phases and row.phases[-1]["name"] == name:
                return False
            row.phases = [*_ended(row.phases), asdict(Phase(name, now()))]
        return True

    # ---- threads ----

    def _running(self) -> list[Run]:
        with self._runs_lock:
            return list(self._runs.values())

    def _dispatch(self) -> None:
        while not self.closing:
            try:
                while not self.closing and (run := self._claim()) is not None:
                    name = f"{run.kind} {run.target}"
                    threading.Thread(target=self._perform, args=(run,), name=name, daemon=True).start()
            except VenvdError as error:
                log.warning("operations wait: %s", error.message)
                time.sleep(_RETRY)
            else:
                self._wake.wait()
                self._wake.clear()

    def _claim(self) -> Run | None:
        """The next operation that may run: one at a time for each target."""
        running = self._running()
        busy = {(run.kind, run.target) for run in running}
        if len(running) >= self._at_once:
            return None
        query = select(OperationRow).where(OperationRow.state == "queued").order_by(OperationRow.id)
        with self._database.write() as session:
            row = next((row for row in session.scalars(query) if (row.kind, row.target) not in busy), None)
            if row is None:
                return None
            run = Run(self, row, again=row.started_at is not None)
            row.state, row.started_at = "running", row.started_at or now()
            with self._runs_lock:
                self._runs[run.id] = run
        return run

    def _perform(self, run: Run) -> None:
        error: VenvdError | None = None
        try:
            if run.again:
                run.log("the controller was started again, and this operation begins anew")
            self._kinds[run.kind].work(run.target, run)
        except VenvdError as raised:
            error = raised
        except Exception as raised:
            log.exception("operation %s failed", run.id)
            error = Internal(f"a defect of the controller: {raised!r}")
        # what a stopping controller cancelled is taken up by the next
        if not (self.closing and isinstance(error, Cancelled)):
            self._end_surely(run, error)
        with self._runs_lock:
            del self._runs[run.id]
        self._wake.set()
        self._notify(run.id)

    def _end_surely(self, run: Run, error: VenvdError | None) -> None:
        while True:
            try:
                with self._database.write() as session:
                    self._end(session, session.get_one(OperationRow, run.id), error)
            except VenvdError as away:
                log.warning("the end of operation %s cannot be noted yet: %s", run.id, away.message)
                if self.closing:
                    return
                time.sleep(_RETRY)
            else:
                return

    def _end(self, session: Session, row: OperationRow, error: VenvdError | None) -> None:
        row.state = "succeeded" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
        row.ended_at, row.phases = now(), _ended(row.phases)
        row.error = error.problem() if error else None
        if error is not None:
            self._kinds[row.kind].failed(session, row.target, row.id, error)
        info = _info(row)
        after_commit(session, lambda: self._told_done(info))

    def _told_done(self, info: OperationInfo) -> None:
        for call in self.on_done:
            call(info.kind, info.state, elapsed(info.startedAt or info.createdAt, info.endedAt or info.createdAt))
        self._notify(info.id)

    def _forget_old(self, session: Session) -> None:
        query = select(OperationRow).where(OperationRow.state.in_(DONE)).order_by(OperationRow.id.desc())
        for row in session.scalars(query.offset(_KEEP)):
            session.delete(row)


def _storable(line: str) -> str:
    """What every database takes: no NUL, no half characters, not without end."""
    return line[:_MAX_LINE].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


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
