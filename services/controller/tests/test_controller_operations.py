"""Operations: their events, their cancelling, and what a controller before this one left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from venvd_contract.errors import NotFound, UserError
from venvd_controller.database import Database, open_database
from venvd_controller.operations import Operations, Run


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(f"sqlite:///{tmp_path / 'test.sqlite3'}")


def serving(database: Database, work: Callable[[str, Run], None]) -> Operations:
    made = Operations(database, 2)
    made.register("work", work)
    made.start()
    return made


def test_events_are_told_in_order(database: Database) -> None:
    """Phases and lines come as they were said, and `done` last."""

    def work(_target: str, run: Run) -> None:
        run.phase("one")
        run.log("line")
        run.phase("two")

    operations = serving(database, work)
    info = operations.submit("work", "x")
    told = [(event.kind, event.data) for event in operations.follow(info.id, 0) if event]
    assert told[:3] == [("phase", "one"), ("log", "line"), ("phase", "two")]
    assert told[3][0] == "done"
    assert told[3][1]["state"] == "succeeded"
    operations.stop()


def test_a_follower_that_comes_back_misses_nothing(database: Database) -> None:
    """Following from an event's ID gives what came after it, each once."""

    def work(_target: str, run: Run) -> None:
        for number in range(5):
            run.log(str(number))

    operations = serving(database, work)
    info = operations.submit("work", "x")
    operations.wait(info.id, 10)
    assert [event.data for event in operations.follow(info.id, 3) if event and event.kind == "log"] == ["3", "4"]
    operations.stop()


def test_a_failure_keeps_its_problem(database: Database) -> None:
    """An operation that failed tells why, in problem details."""

    def work(_target: str, _run: Run) -> None:
        raise UserError("it broke")

    operations = serving(database, work)
    done = operations.wait(operations.submit("work", "x").id, 10)
    assert done.error is not None
    assert (done.state, done.error["code"], done.error["detail"]) == ("failed", "user_error", "it broke")
    operations.stop()


def test_a_defect_is_told_as_one(database: Database) -> None:
    """An exception that nobody foresaw becomes `internal`, and the next operation runs."""

    def work(target: str, _run: Run) -> None:
        if target == "bad":
            raise ZeroDivisionError

    operations = serving(database, work)
    bad = operations.wait(operations.submit("work", "bad").id, 10)
    good = operations.wait(operations.submit("work", "good").id, 10)
    assert bad.error is not None
    assert (bad.state, bad.error["code"], good.state) == ("failed", "internal", "succeeded")
    operations.stop()


def test_running_work_is_cancelled(database: Database) -> None:
    """Cancelling reaches work that looks after it."""
    began = threading.Event()

    def work(_target: str, run: Run) -> None:
        began.set()
        while True:
            run.cancelled.wait(1)
            run.check()

    operations = serving(database, work)
    info = operations.submit("work", "x")
    assert began.wait(10)
    operations.cancel(info.id)
    assert operations.wait(info.id, 10).state == "cancelled"
    operations.stop()


def test_waiting_work_is_cancelled_at_once(database: Database) -> None:
    """Work that has not begun never begins."""
    operations = Operations(database, 1)
    ran: list[str] = []
    operations.register("work", lambda target, _run: ran.append(target))
    info = operations.submit("work", "x")
    assert operations.cancel(info.id).state == "cancelled"
    operations.start()
    operations.wait(operations.submit("work", "y").id, 10)
    assert ran == ["y"]
    operations.stop()


def test_the_same_work_waits_once(database: Database) -> None:
    """Asking again for what waits already gives the same operation."""
    operations = Operations(database, 1)
    operations.register("work", lambda _target, _run: None)
    assert operations.submit("work", "x").id == operations.submit("work", "x").id


def test_work_that_was_cut_is_taken_up_again(database: Database) -> None:
    """What ran when a controller ended is run by the next one, under the same ID."""
    release, began = threading.Event(), threading.Event()

    def stuck(_target: str, _run: Run) -> None:
        began.set()
        release.wait(30)

    first = serving(database, stuck)
    info = first.submit("work", "x")
    assert began.wait(10)
    ran: list[str] = []
    second = serving(database, lambda target, _run: ran.append(target))
    assert second.wait(info.id, 10).state == "succeeded"
    assert ran == ["x"]
    release.set()
    first.stop()
    second.stop()


def test_an_unknown_operation_is_named(database: Database) -> None:
    """Asking for one that is not there is `not_found`."""
    with pytest.raises(NotFound, match="ghost"):
        Operations(database, 1).get("ghost")
