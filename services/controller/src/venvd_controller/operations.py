"""Operations: long jobs of the controller.

The database queues them, and threads run them. After a restart, the controller runs unfinished operations again.
"""

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

from sqlalchemy import ColumnElement, false, func, or_, select
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Internal, NotFound, VenvdError
from venvd_contract.resources import Event, OperationInfo, Phase
from venvd_controller.callers import Visible, match_names
from venvd_controller.clock import count_seconds, now
from venvd_controller.database import Database, Reading, after_commit
from venvd_controller.database.tables import EventRow, OperationRow

log = logging.getLogger("venvd.controller")

ACTIVE = ("queued", "running")
DONE = frozenset({"succeeded", "failed", "cancelled"})
MAX_EVENTS = 10_000
"""How many events of an operation are kept. The controller drops further log lines, and the log says so."""
_MAX_LINE = 4000
"""How many characters of a line are kept."""
_MAX_OPERATIONS = 500
"""How many operations are kept."""
_PAGE = 500
"""How many events are read at a time."""
_RETRY_SECONDS = 1.0


class Run:
    """One running operation: the `Progress` that the engine reports to."""

    def __init__(self, operations: Operations, row: OperationRow, *, resumed: bool) -> None:
        self._operations = operations
        self.id, self.kind, self.target, self.resumed = row.id, row.kind, row.target, resumed
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._count = operations.count_events(self.id)

    @property
    def closing(self) -> bool:
        """Whether the controller is stopping; the next controller resumes this operation."""
        return self._operations.closing

    def phase(self, name: str) -> None:
        if self._operations.begin_phase(self.id, name):
            self._add_event("phase", name)

    def log(self, line: str) -> None:
        if self._count < MAX_EVENTS:
            self._add_event("log", _sanitize(line))
        elif self._count == MAX_EVENTS:
            self._add_event("log", f"… the log is longer than {MAX_EVENTS} lines; the rest is dropped")

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("the operation was cancelled")

    def _add_event(self, kind: str, text: str) -> None:
        with self._lock:
            self._count += 1
            self._operations.add_event(self.id, self._count, kind, text)


@dataclass(frozen=True)
class OperationKind:
    """The work of operations of one kind.

    Attributes:
        work: does the job for a target. It may be called again after a crash.
        record_failure: writes the error to the target's row, in the transaction that ends the operation. Its arguments
            are session, target, operation and error. It does not change a target that a newer operation works on.
    """

    work: Callable[[str, Run], None]
    record_failure: Callable[[Session, str, str, VenvdError], None]


class Operations:
    """All operations of a controller.

    Args:
        limit: how many operations run at a time.

    Attributes:
        closing: whether the controller is stopping.
        on_end: functions called with kind, outcome and seconds of each operation that ended.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._kinds: dict[str, OperationKind] = {}
        self._runs: dict[str, Run] = {}
        self._runs_lock = threading.Lock()
        self._last_time = 0
        self._subscribers: list[tuple[str, Callable[[], None]]] = []
        active = select(OperationRow.kind, OperationRow.target).where(OperationRow.state.in_(ACTIVE))
        self._active = Reading(database, lambda session: session.execute(active).all())
        self._wake = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name="operations", daemon=True)
        self.closing = False
        self.on_end: list[Callable[[str, str, float], None]] = []

    def register(self, name: str, kind: OperationKind) -> None:
        self._kinds[name] = kind

    def start(self) -> None:
        """Queue the operations that the previous controller did not finish, then start to run operations."""
        with self._database.write() as session:
            for row in session.scalars(select(OperationRow).where(OperationRow.state == "running")):
                row.state, row.phases = "queued", []
        self._dispatcher.start()

    def close_followers(self) -> None:
        """End the event streams of all clients that follow an operation."""
        self.closing = True
        for _, notify in list(self._subscribers):
            notify()

    def stop(self, seconds: float = 15.0) -> None:
        """Cancel the running operations and wait until they end, at most `seconds`.

        The next controller resumes them.
        """
        self.close_followers()
        self._wake.set()
        deadline = time.monotonic() + seconds
        if self._dispatcher.is_alive():
            self._dispatcher.join(seconds)
        while (runs := self._list_runs()) and time.monotonic() < deadline:
            for run in runs:
                run.cancelled.set()
            time.sleep(0.02)

    # ---- commands, inside the caller's transaction ----

    def submit(self, session: Session, kind: str, target: str, venv: str | None = None) -> OperationInfo:
        """Queue an operation, perhaps for a venv. It starts after the transaction of `session` is committed."""
        with self._runs_lock:  # operations run in the order of their IDs
            self._last_time = max(time.time_ns() // 1_000_000, self._last_time + 1)
            key = f"{self._last_time:012x}{secrets.token_hex(4)}"
        row = OperationRow(id=key, kind=kind, target=target, venv=venv, state="queued", created_at=now(), phases=[])
        session.add(row)
        session.flush()
        self._delete_oldest(session)
        after_commit(session, self._wake.set)
        return _to_resource(row)

    def find_active(self, session: Session, kind: str, target: str) -> OperationInfo | None:
        """Return the newest queued or running operation of a kind for a target."""
        row = self._find_active_row(session, kind, target)
        return _to_resource(row) if row else None

    def find_joinable(self, session: Session, kind: str, target: str) -> OperationInfo | None:
        """Return the newest queued or running operation of a kind for a target, unless it is being cancelled."""
        row = self._find_active_row(session, kind, target)
        with self._runs_lock:
            run = None if row is None else self._runs.get(row.id)
        return None if row is None or (run is not None and run.cancelled.is_set()) else _to_resource(row)

    def _find_active_row(self, session: Session, kind: str, target: str) -> OperationRow | None:
        query = select(OperationRow).where(
            OperationRow.kind == kind, OperationRow.target == target, OperationRow.state.in_(ACTIVE)
        )
        return session.scalars(query.order_by(OperationRow.id.desc())).first()

    def cancel_active(self, session: Session, kind: str, target: str) -> OperationInfo | None:
        """Cancel the queued or running operation of a kind for a target, and return it."""
        row = self._find_active_row(session, kind, target)
        if row is not None:
            self._cancel(session, row)
        return _to_resource(row) if row else None

    def cancel(self, key: str) -> OperationInfo:
        """Ask an operation to end. An operation that has ended does not change."""
        with self._database.write() as session:
            self._cancel(session, self._get_row(session, key))
        return self.get(key)

    def _cancel(self, session: Session, row: OperationRow) -> None:
        if row.state == "queued":
            self._end(session, row, Cancelled("the operation was cancelled before it began"))
        elif row.state == "running":
            with self._runs_lock:
                run = self._runs.get(row.id)
            if run is not None:
                after_commit(session, run.cancelled.set)

    # ---- queries ----

    def get(self, key: str) -> OperationInfo:
        with self._database.read() as session:
            return _to_resource(self._get_row(session, key))

    def _get_row(self, session: Session, key: str) -> OperationRow:
        row = session.get(OperationRow, key)
        if row is None:
            raise NotFound(f'no operation "{key[:40]}"; the last {_MAX_OPERATIONS} are kept')
        return row

    def find_venv(self, key: str) -> str | None:
        """Return the venv that an operation works for. Return None for a runtime, which venvs share."""
        with self._database.read() as session:
            return self._get_row(session, key).venv

    def list_all(
        self, after: str | None, limit: int, visible: Visible | None = None, **columns: str | None
    ) -> Sequence[OperationInfo]:
        """List the operations that are older than `after` and have the given values in `columns`, newest first."""
        query = select(OperationRow).order_by(OperationRow.id.desc()).limit(limit)
        if visible is not None:
            shared = OperationRow.venv.is_(None) if visible.venvs else false()
            query = query.where(or_(match_names(OperationRow.venv, visible.venvs), shared))
        for name, value in columns.items():
            if value is not None:
                column: ColumnElement[str] = getattr(OperationRow, name)
                query = query.where(column == value)
        if after is not None:
            query = query.where(OperationRow.id < after)
        with self._database.read() as session:
            return [_to_resource(row) for row in session.scalars(query)]

    def count(self, states: Sequence[str] = (*ACTIVE, *DONE)) -> Counter[tuple[str, str]]:
        """Count the operations of each kind in each of these states."""
        query = select(OperationRow.kind, OperationRow.state, func.count()).where(OperationRow.state.in_(states))
        with self._database.read() as session:
            rows = session.execute(query.group_by(OperationRow.kind, OperationRow.state))
            return Counter({(kind, state): count for kind, state, count in rows})

    def list_active_targets(self, kind: str | None = None) -> set[str]:
        """List the targets of queued and running operations."""
        return {target for each, target in self._active.get() if kind in {None, each}}

    def is_running(self, kind: str, target: str) -> bool:
        """Return whether an operation of a kind for a target runs. One that waits for its turn does not count."""
        return any((run.kind, run.target) == (kind, target) for run in self._list_runs())

    def is_ending(self, kind: str, target: str) -> bool:
        """Return whether an operation of a kind for a target was cancelled but still runs."""
        return any((run.kind, run.target) == (kind, target) and run.cancelled.is_set() for run in self._list_runs())

    def wait(self, key: str, seconds: float) -> OperationInfo:
        """Wait until the operation ends, at most `seconds`, and return its state at that time."""
        changed = threading.Event()
        deadline = time.monotonic() + seconds
        with self.subscribe(key, changed.set):
            while (info := self.get(key)).state not in DONE and (seconds_left := deadline - time.monotonic()) > 0:
                changed.wait(seconds_left)
                changed.clear()
        return info

    def list_events(self, key: str, after: int) -> list[Event]:
        """List one page of the events with an ID greater than `after`, oldest first.

        The last event of an operation that has ended is `done`.
        """
        query = select(EventRow).where(EventRow.operation == key, EventRow.id > after)
        with self._database.read() as session:
            info = _to_resource(self._get_row(session, key))
            rows = session.scalars(query.order_by(EventRow.id).limit(_PAGE)).all()
        events = [Event(row.id, row.kind, row.data) for row in rows]
        if info.state in DONE and len(events) < _PAGE:
            last_id = events[-1].id if events else max(after, self.count_events(key))
            events.append(Event(last_id + 1, "done", asdict(info)))
        return events

    @contextmanager
    def subscribe(self, key: str, notify: Callable[[], None]) -> Iterator[None]:
        """Call `notify`, from any thread, at each change of an operation."""
        subscriber = (key, notify)
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    def _notify(self, key: str) -> None:
        for subscribed_key, notify in list(self._subscribers):
            if subscribed_key == key:
                notify()

    # ---- reports of a run ----

    def count_events(self, key: str) -> int:
        query = select(func.max(EventRow.id)).where(EventRow.operation == key)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def add_event(self, key: str, number: int, kind: str, data: str) -> None:
        with self._database.write() as session:
            session.add(EventRow(operation=key, id=number, kind=kind, data=data))
        self._notify(key)

    def begin_phase(self, key: str, name: str) -> bool:
        """Begin a phase. Return False if the operation is in this phase already."""
        with self._database.write() as session:
            row = session.get_one(OperationRow, key)
            if row.phases and row.phases[-1]["name"] == name:
                return False
            row.phases = [*_end_phases(row.phases), asdict(Phase(name, now()))]
        return True

    # ---- threads ----

    def _list_runs(self) -> list[Run]:
        with self._runs_lock:
            return list(self._runs.values())

    def _dispatch(self) -> None:
        while not self.closing:
            try:
                while not self.closing and (run := self._claim_next()) is not None:
                    thread_name = f"{run.kind} {run.target}"
                    threading.Thread(target=self._perform, args=(run,), name=thread_name, daemon=True).start()
            except VenvdError as error:
                log.warning("no operation can be started: %s", error.message)
                time.sleep(_RETRY_SECONDS)
            else:
                self._wake.wait()
                self._wake.clear()

    def _claim_next(self) -> Run | None:
        """Mark the oldest operation that may run as running, and return its run.

        A target has one running operation at a time.
        """
        runs = self._list_runs()
        busy_targets = {(run.kind, run.target) for run in runs}
        if len(runs) >= self._limit:
            return None
        query = select(OperationRow).where(OperationRow.state == "queued").order_by(OperationRow.id)
        run: Run | None = None
        try:
            with self._database.write() as session:
                row = next((row for row in session.scalars(query) if (row.kind, row.target) not in busy_targets), None)
                if row is None:
                    return None
                run = Run(self, row, resumed=row.started_at is not None)
                row.state, row.started_at = "running", row.started_at or now()
                with self._runs_lock:
                    self._runs[run.id] = run
        except BaseException:
            with self._runs_lock:  # the row is still queued
                self._runs.pop(run.id if run is not None else "", None)
            raise
        return run

    def _perform(self, run: Run) -> None:
        error: VenvdError | None = None
        try:
            if run.resumed:
                run.log("the controller was restarted, and this operation begins anew")
            self._kinds[run.kind].work(run.target, run)
        except VenvdError as raised:
            error = raised
        except Exception as raised:
            log.exception("operation %s failed", run.id)
            error = Internal(f"a defect of the controller: {raised!r}")
        # If the controller cancels an operation because it stops, the operation remains "running". The next controller
        # resumes it.
        if not (self.closing and isinstance(error, Cancelled)):
            self._write_end(run, error)
        with self._runs_lock:
            del self._runs[run.id]
        self._wake.set()
        self._notify(run.id)

    def _write_end(self, run: Run, error: VenvdError | None) -> None:
        """End an operation in the database. Try again while the database does not answer."""
        while True:
            try:
                with self._database.write() as session:
                    self._end(session, session.get_one(OperationRow, run.id), error)
            except VenvdError as unavailable:
                log.warning("the end of operation %s cannot be written yet: %s", run.id, unavailable.message)
                if self.closing:
                    return
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _end(self, session: Session, row: OperationRow, error: VenvdError | None) -> None:
        row.state = "succeeded" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
        row.ended_at, row.phases = now(), _end_phases(row.phases)
        row.error = error.problem() if error else None
        if error is not None:
            self._kinds[row.kind].record_failure(session, row.target, row.id, error)
        info = _to_resource(row)
        after_commit(session, lambda: self._announce_end(info))

    def _announce_end(self, info: OperationInfo) -> None:
        seconds = count_seconds(info.startedAt or info.createdAt, info.endedAt or info.createdAt)
        for callback in self.on_end:
            callback(info.kind, info.state, seconds)
        self._notify(info.id)

    def _delete_oldest(self, session: Session) -> None:
        """Delete the oldest ended operations beyond the number to keep."""
        query = select(OperationRow).where(OperationRow.state.in_(DONE)).order_by(OperationRow.id.desc())
        for row in session.scalars(query.offset(_MAX_OPERATIONS)):
            session.delete(row)


def _sanitize(line: str) -> str:
    """Make a line acceptable for every database: short, without NUL and lone surrogates."""
    return line[:_MAX_LINE].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _end_phases(phases: list[Any]) -> list[Any]:
    return [{**phase, "endedAt": phase["endedAt"] or now()} for phase in phases]


def _to_resource(row: OperationRow) -> OperationInfo:
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
