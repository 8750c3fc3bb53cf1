"""Operations: their events, their cancelling, and what a controller before this one left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from venvd_contract.errors import NotFound, UserError, VenvdError
from venvd_contract.resources import OperationInfo
from venvd_controller import operations as module
from venvd_controller.database import Database
from venvd_controller.operations import Kind, Operations, Run

Work = Callable[[str, Run], None]


class Floor:
    """Operations of one kind whose work a test gives, and the failures that it was told of."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.failures: list[tuple[str, str]] = []
        self.made: list[Operations] = []

    def operations(self, work: Work, at_once: int = 4) -> Operations:
        made = Operations(self.database, at_once)
        made.register("work", Kind(work, self._failed))
        self.made.append(made)
        return made

    def serving(self, work: Work, at_once: int = 4) -> Operations:
        made = self.operations(work, at_once)
        made.start()
        return made

    def _failed(self, _session: Session, target: str, _operation: str, error: VenvdError) -> None:
        self.failures.append((target, error.message))

    def submit(self, operations: Operations, target: str = "x") -> OperationInfo:
        with self.database.write() as session:
            return operations.submit(session, "work", target)

    def done(self, operations: Operations, target: str = "x") -> OperationInfo:
        return operations.wait(self.submit(operations, target).id, 10)


@pytest.fixture
def floor(database: Database) -> Iterator[Floor]:
    made = Floor(database)
    yield made
    for operations in made.made:
        operations.stop()


class Stuck:
    """Work that goes on until it is let go or cancelled."""

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
        assert all(self.began.acquire(timeout=10) for _ in range(count))


def told(operations: Operations, key: str, after: int = 0) -> list[tuple[int, str, Any]]:
    return [(event.id, event.kind, event.data) for event in operations.since(key, after)]


def test_events_are_told_in_order(floor: Floor) -> None:
    """Phases and lines come as they were said, numbered from 1, and `done` with the outcome last."""

    def work(_target: str, run: Run) -> None:
        run.phase("one")
        run.log("line")
        run.phase("one")
        run.phase("two")

    operations = floor.serving(work)
    info = floor.done(operations)
    found = told(operations, info.id)
    assert found[:3] == [(1, "phase", "one"), (2, "log", "line"), (3, "phase", "two")]
    assert found[3][:2] == (4, "done")
    assert found[3][2]["state"] == "succeeded"
    assert [phase.name for phase in info.phases] == ["one", "two"]
    assert all(phase.endedAt for phase in info.phases)


def test_events_beyond_an_id_are_told(floor: Floor) -> None:
    """Asking from an event's ID gives what came after it, each once, and `done` also to who has seen all."""

    def work(_target: str, run: Run) -> None:
        for number in range(5):
            run.log(str(number))

    operations = floor.serving(work)
    info = floor.done(operations)
    assert [data for _, kind, data in told(operations, info.id, 3) if kind == "log"] == ["3", "4"]
    assert [kind for _, kind, _ in told(operations, info.id, 6)] == ["done"]


def test_a_long_log_is_cut(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines over the limit are dropped, which is said once, and long or odd lines are kept as text."""
    monkeypatch.setattr(module, "MAX_EVENTS", 3)

    def work(_target: str, run: Run) -> None:
        run.log("a\0b\ud800")
        for _ in range(10):
            run.log("x" * 100_000)

    operations = floor.serving(work)
    lines = [data for _, kind, data in told(operations, floor.done(operations).id) if kind == "log"]
    assert len(lines) == 4
    assert "dropped" in lines[3]
    assert lines[0] == "a\N{REPLACEMENT CHARACTER}b?"
    assert len(lines[1]) < 10_000


def test_a_failure_keeps_its_problem(floor: Floor) -> None:
    """An operation that failed tells why, in problem details, and its target is told in the same transaction."""

    def work(_target: str, _run: Run) -> None:
        raise UserError("it broke")

    done = floor.done(floor.serving(work))
    assert done.error is not None
    assert (done.state, done.error["code"], done.error["detail"]) == ("failed", "user_error", "it broke")
    assert floor.failures == [("x", "it broke")]


def test_a_defect_is_told_as_one(floor: Floor) -> None:
    """An exception that nobody foresaw becomes `internal`, and the next operation runs."""

    def work(target: str, _run: Run) -> None:
        if target == "bad":
            raise ZeroDivisionError

    operations = floor.serving(work)
    bad, good = floor.done(operations, "bad"), floor.done(operations, "good")
    assert bad.error is not None
    assert (bad.state, bad.error["code"], good.state) == ("failed", "internal", "succeeded")


def test_running_work_is_cancelled(floor: Floor) -> None:
    """Cancelling reaches work that looks after it."""
    stuck = Stuck()
    operations = floor.serving(stuck)
    info = floor.submit(operations)
    stuck.wait()
    operations.cancel(info.id)
    assert operations.wait(info.id, 10).state == "cancelled"


def test_waiting_work_is_cancelled_at_once(floor: Floor) -> None:
    """Work that has not begun never begins, and its target hears of it."""
    ran: list[str] = []
    operations = floor.operations(lambda target, _run: ran.append(target))
    info = floor.submit(operations)
    assert operations.cancel(info.id).state == "cancelled"
    operations.start()
    floor.done(operations, "y")
    assert ran == ["y"]
    assert [target for target, _ in floor.failures] == ["x"]


def test_what_is_done_cannot_be_cancelled(floor: Floor) -> None:
    """Cancelling an operation that ended changes nothing."""
    operations = floor.serving(lambda _target, _run: None)
    info = floor.done(operations)
    assert operations.cancel(info.id) == info


def test_a_target_has_one_operation_at_a_time(floor: Floor) -> None:
    """Two operations for one target run one after the other, those for others beside them."""
    stuck = Stuck()
    operations = floor.serving(stuck)
    first, second = floor.submit(operations), floor.submit(operations)
    other = floor.submit(operations, "y")
    stuck.wait(2)
    assert sorted(stuck.running) == ["x", "y"]
    assert operations.get(second.id).state == "queued"
    stuck.release.set()
    assert {operations.wait(info.id, 10).state for info in (first, second, other)} == {"succeeded"}


def test_so_many_run_at_once_and_no_more(floor: Floor) -> None:
    """The rest waits its turn."""
    stuck = Stuck()
    operations = floor.serving(stuck, at_once=2)
    infos = [floor.submit(operations, str(number)) for number in range(5)]
    stuck.wait(2)
    assert [operations.get(info.id).state for info in infos].count("running") == 2
    stuck.release.set()
    assert {operations.wait(info.id, 10).state for info in infos} == {"succeeded"}


def test_work_that_is_not_kept_never_runs(floor: Floor) -> None:
    """An operation of a transaction that fails is no operation."""
    ran: list[str] = []
    operations = floor.serving(lambda target, _run: ran.append(target))
    with pytest.raises(ZeroDivisionError), floor.database.write() as session:
        operations.submit(session, "work", "ghost")
        raise ZeroDivisionError
    floor.done(operations, "real")
    assert ran == ["real"]


def test_work_that_was_cut_is_taken_up_again(floor: Floor) -> None:
    """What ran when a controller ended is run by the next one, under the same ID, with its log kept."""
    stuck = Stuck()

    def first_work(target: str, run: Run) -> None:
        run.log("of the first")
        stuck(target, run)

    first = floor.serving(first_work)
    info = floor.submit(first)
    stuck.wait()
    first.stop()
    assert first.get(info.id).state == "running"
    second = floor.serving(lambda _target, run: run.log("of the second"))
    assert second.wait(info.id, 10).state == "succeeded"
    lines = [data for _, kind, data in told(second, info.id) if kind == "log"]
    assert lines[0] == "of the first"
    assert "anew" in lines[1]
    assert lines[2] == "of the second"


def test_old_operations_are_forgotten(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that ended the newest are kept, with their events."""
    monkeypatch.setattr(module, "_KEEP", 3)
    operations = floor.serving(lambda _target, run: run.log("line"))
    infos = [floor.done(operations, str(number)) for number in range(6)]
    kept = [info.target for info in operations.all(None, 100)]
    assert kept == ["5", "4", "3", "2"]
    assert operations.count_events(infos[0].id) == 0
    assert operations.count_events(infos[5].id) == 1


def test_operations_are_listed_by_what_they_are(floor: Floor) -> None:
    """The newest first, from where a page ended, and by kind, target and state."""
    operations = floor.serving(lambda _target, _run: None)
    infos = [floor.done(operations, target) for target in ("a", "b", "a")]
    assert [info.id for info in operations.all(None, 2)] == [infos[2].id, infos[1].id]
    assert [info.id for info in operations.all(infos[1].id, 10)] == [infos[0].id]
    assert [info.id for info in operations.all(None, 10, target="a", state="succeeded")] == [infos[2].id, infos[0].id]
    assert operations.all(None, 10, state="failed") == []


def test_an_unknown_operation_is_named(floor: Floor) -> None:
    """Asking for one that is not there is `not_found`."""
    with pytest.raises(NotFound, match="ghost"):
        floor.operations(lambda _target, _run: None).get("ghost")
