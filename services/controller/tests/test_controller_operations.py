"""Operations: events, cancelling, and operations that the previous controller left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from venvd_contract.errors import NotFound, UserError, VenvdError
from venvd_contract.resources import OperationInfo
from venvd_controller import operations as module
from venvd_controller.database import Database
from venvd_controller.database.tables import OperationRow
from venvd_controller.operations import OperationKind, Operations, Run

Work = Callable[[str, Run], None]
TIMEOUT = 120.0


class Jobs:
    """Operations of one kind whose work a test provides, and the failures that it recorded."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.failures: list[tuple[str, str]] = []
        self.created: list[Operations] = []

    def create(self, work: Work, limit: int = 4) -> Operations:
        operations = Operations(self.database, limit)
        operations.register("work", OperationKind(work, self._record_failure))
        self.created.append(operations)
        return operations

    def start(self, work: Work, limit: int = 4) -> Operations:
        operations = self.create(work, limit)
        operations.start()
        return operations

    def _record_failure(self, _session: Session, target: str, _operation: str, error: VenvdError) -> None:
        self.failures.append((target, error.message))

    def submit(self, operations: Operations, target: str = "x") -> OperationInfo:
        with self.database.write() as session:
            return operations.submit(session, "work", target)

    def run(self, operations: Operations, target: str = "x") -> OperationInfo:
        return operations.wait(self.submit(operations, target).id, TIMEOUT)


@pytest.fixture
def jobs(database: Database) -> Iterator[Jobs]:
    jobs = Jobs(database)
    yield jobs
    for operations in jobs.created:
        operations.stop()


class Stuck:
    """Work that lasts until it is released or cancelled."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running: list[str] = []
        self.began = threading.Semaphore(0)

    def __call__(self, target: str, run: Run) -> None:
        self.running.append(target)
        self.began.release()
        while not self.release.wait(0.01):
            run.check()
        self.running.remove(target)

    def wait(self, count: int = 1) -> None:
        assert all(self.began.acquire(timeout=TIMEOUT) for _ in range(count))


def list_events(operations: Operations, key: str, after: int = 0) -> list[tuple[int, str, Any]]:
    return [(event.id, event.kind, event.data) for event in operations.list_events(key, after)]


def test_events_are_in_order(jobs: Jobs) -> None:
    """Phases and lines are numbered from 1 in their order, and `done` with the outcome is the last event."""

    def work(_target: str, run: Run) -> None:
        run.phase("one")
        run.log("line")
        run.phase("one")
        run.phase("two")

    operations = jobs.start(work)
    info = jobs.run(operations)
    events = list_events(operations, info.id)
    assert events[:3] == [(1, "phase", "one"), (2, "log", "line"), (3, "phase", "two")]
    assert events[3][:2] == (4, "done")
    assert events[3][2]["state"] == "succeeded"
    assert [phase.name for phase in info.phases] == ["one", "two"]
    assert all(phase.endedAt for phase in info.phases)


def test_events_after_an_id_are_listed(jobs: Jobs) -> None:
    """A follower that names its last event gets the later ones, and always `done`."""

    def work(_target: str, run: Run) -> None:
        for number in range(5):
            run.log(str(number))

    operations = jobs.start(work)
    info = jobs.run(operations)
    assert [data for _, kind, data in list_events(operations, info.id, 3) if kind == "log"] == ["3", "4"]
    assert [kind for _, kind, _ in list_events(operations, info.id, 6)] == ["done"]


def test_a_long_log_is_cut(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines over the limit are dropped, which the log says once; long and odd lines become plain text."""
    monkeypatch.setattr(module, "MAX_EVENTS", 3)

    def work(_target: str, run: Run) -> None:
        run.log("a\0b\ud800")
        for _ in range(10):
            run.log("x" * 100_000)

    operations = jobs.start(work)
    lines = [data for _, kind, data in list_events(operations, jobs.run(operations).id) if kind == "log"]
    assert len(lines) == 4
    assert "dropped" in lines[3]
    assert lines[0] == "a\N{REPLACEMENT CHARACTER}b?"
    assert len(lines[1]) < 10_000


def test_a_failure_keeps_its_problem(jobs: Jobs) -> None:
    """A failed operation holds problem details, and its failure is recorded in the same transaction."""

    def work(_target: str, _run: Run) -> None:
        raise UserError("it broke")

    done = jobs.run(jobs.start(work))
    assert done.error is not None
    assert (done.state, done.error["code"], done.error["detail"]) == ("failed", "user_error", "it broke")
    assert jobs.failures == [("x", "it broke")]


def test_a_defect_is_internal(jobs: Jobs) -> None:
    """An unexpected exception becomes `internal`, and the next operation runs."""

    def work(target: str, _run: Run) -> None:
        if target == "bad":
            raise ZeroDivisionError

    operations = jobs.start(work)
    bad, good = jobs.run(operations, "bad"), jobs.run(operations, "good")
    assert bad.error is not None
    assert (bad.state, bad.error["code"], good.state) == ("failed", "internal", "succeeded")


def test_running_work_is_cancelled(jobs: Jobs) -> None:
    """A cancel reaches running work through `check`."""
    stuck = Stuck()
    operations = jobs.start(stuck)
    info = jobs.submit(operations)
    stuck.wait()
    operations.cancel(info.id)
    assert operations.wait(info.id, TIMEOUT).state == "cancelled"


def test_queued_work_is_cancelled_at_once(jobs: Jobs) -> None:
    """Cancelled work in the queue never begins, and its failure is recorded."""
    ran: list[str] = []
    operations = jobs.create(lambda target, _run: ran.append(target))
    info = jobs.submit(operations)
    assert operations.cancel(info.id).state == "cancelled"
    operations.start()
    jobs.run(operations, "y")
    assert ran == ["y"]
    assert [target for target, _ in jobs.failures] == ["x"]


def test_an_ended_operation_cannot_be_cancelled(jobs: Jobs) -> None:
    """A cancel does not change an operation that has ended."""
    operations = jobs.start(lambda _target, _run: None)
    info = jobs.run(operations)
    assert operations.cancel(info.id) == info


def test_a_target_has_one_operation_at_a_time(jobs: Jobs) -> None:
    """Two operations for one target run one after the other; other targets run in parallel."""
    stuck = Stuck()
    operations = jobs.start(stuck)
    first, second = jobs.submit(operations), jobs.submit(operations)
    other = jobs.submit(operations, "y")
    stuck.wait(2)
    assert sorted(stuck.running) == ["x", "y"]
    assert operations.get(second.id).state == "queued"
    stuck.release.set()
    assert {operations.wait(info.id, TIMEOUT).state for info in (first, second, other)} == {"succeeded"}


def test_the_number_of_running_operations_is_limited(jobs: Jobs) -> None:
    """Operations over the limit stay in the queue."""
    stuck = Stuck()
    operations = jobs.start(stuck, limit=2)
    infos = [jobs.submit(operations, str(number)) for number in range(5)]
    stuck.wait(2)
    assert [operations.get(info.id).state for info in infos].count("running") == 2
    stuck.release.set()
    assert {operations.wait(info.id, TIMEOUT).state for info in infos} == {"succeeded"}


def test_a_rolled_back_operation_never_runs(jobs: Jobs) -> None:
    """An operation whose transaction is rolled back does not exist."""
    ran: list[str] = []
    operations = jobs.start(lambda target, _run: ran.append(target))
    with pytest.raises(ZeroDivisionError), jobs.database.write() as session:
        operations.submit(session, "work", "ghost")
        raise ZeroDivisionError
    jobs.run(operations, "real")
    assert ran == ["real"]


def test_an_interrupted_operation_is_resumed(jobs: Jobs) -> None:
    """The next controller runs an interrupted operation again, under the same ID and with its log."""
    stuck = Stuck()

    def first_work(target: str, run: Run) -> None:
        run.log("of the first")
        stuck(target, run)

    first = jobs.start(first_work)
    info = jobs.submit(first)
    stuck.wait()
    first.stop()
    assert first.get(info.id).state == "running"
    second = jobs.start(lambda _target, run: run.log("of the second"))
    assert second.wait(info.id, TIMEOUT).state == "succeeded"
    lines = [data for _, kind, data in list_events(second, info.id) if kind == "log"]
    assert lines[0] == "of the first"
    assert "anew" in lines[1]
    assert lines[2] == "of the second"


@pytest.mark.slow
def test_the_oldest_operations_are_deleted(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest operations that ended stay, with their events."""
    monkeypatch.setattr(module, "_MAX_OPERATIONS", 3)
    operations = jobs.start(lambda _target, run: run.log("line"))
    infos = [jobs.run(operations, str(number)) for number in range(6)]
    kept = [info.target for info in operations.list_all(None, 100)]
    assert kept == ["5", "4", "3", "2"]
    assert operations.count_events(infos[0].id) == 0
    assert operations.count_events(infos[5].id) == 1


def test_operations_are_listed_and_filtered(jobs: Jobs) -> None:
    """Lists are newest first, paged, and filtered by target and state."""
    operations = jobs.start(lambda _target, _run: None)
    infos = [jobs.run(operations, target) for target in ("a", "b", "a")]
    assert [info.id for info in operations.list_all(None, 2)] == [infos[2].id, infos[1].id]
    assert [info.id for info in operations.list_all(infos[1].id, TIMEOUT)] == [infos[0].id]
    assert [info.id for info in operations.list_all(None, 10, target="a", state="succeeded")] == [
        infos[2].id,
        infos[0].id,
    ]
    assert operations.list_all(None, 10, state="failed") == []


def test_an_unknown_operation_is_named(jobs: Jobs) -> None:
    """A request for an unknown operation is `not_found`."""
    with pytest.raises(NotFound, match="ghost"):
        jobs.create(lambda _target, _run: None).get("ghost")


def test_an_operation_runs_after_an_error_of_the_database(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that would have started it fails once. The controller tries again."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    operations = jobs.create(lambda _target, _run: None)
    submitted = jobs.submit(operations)
    failures = []

    def fail_once(session: Session) -> None:
        if not failures and any(isinstance(row, OperationRow) for row in session.dirty):
            failures.append(session)
            raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    event.listen(Session, "before_commit", fail_once)
    try:
        operations.start()
        assert operations.wait(submitted.id, TIMEOUT).state == "succeeded"
    finally:
        event.remove(Session, "before_commit", fail_once)
    assert len(failures) == 1
