"""Backends that sleep: when their replicas end, and what wakes them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from venvd_contract.internal.messages import RouterLoad
from venvd_contract.resources import VenvSpec
from venvd_controller.database.tables import FORMER, LaunchRow
from venvd_controller.places import make_next_row
from venvd_engines.engine import Launch, LaunchRecord, PartState

from .replicated import find, list_launches, read_table, start  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def testbed(shared_testbed: Any) -> Any:
    shared_testbed.controller.venvs.put("many", VenvSpec(python="3.13"))
    shared_testbed.engine.has_routers = True
    return shared_testbed


def put_to_sleep(testbed: Any, name: str, *numbers: int) -> None:
    """Let replicas of a backend sleep."""
    rows = [testbed.controller.backends.find_replica(name, number) for number in numbers]
    assert testbed.controller.reconciler._sleep.begin(rows)


def await_turns(testbed: Any, wait_until: Any) -> None:
    """Wait until a turn of the reconcile loop has ended that begins after this."""
    for _ in range(2):
        turn = testbed.controller.reconciler.last_turn
        wait_until(lambda turn=turn: testbed.controller.reconciler.last_turn != turn)


def await_state(testbed: Any, name: str, state: str, wait_until: Any) -> None:
    wait_until(lambda: {row.state for row in testbed.controller.backends.list_replicas(name)} == {state})


def test_an_idle_backend_sleeps_until_a_call_waits(testbed: Any, wait_until: Any) -> None:
    """Its replicas end, its router stays, and a call that waits there starts them again at the same address."""
    start(testbed, "sleepy", 2, idleStop=60.0)
    get = testbed.controller.backends.get
    url, router = get("sleepy").url, list_launches(testbed, "sleepy")["sleepy--router"]
    testbed.controller.reconciler.run_turn()
    assert get("sleepy").state == "running"
    for number in range(2):
        find(testbed, "sleepy", number).load.idleSeconds = 61.0
    wait_until(lambda: list_launches(testbed, "sleepy") == {"sleepy--router": router})
    assert (get("sleepy").state, get("sleepy").url) == ("idle", url)
    assert [each["url"] for each in read_table(testbed, "sleepy", "router")["replicas"]] == [None, None]
    testbed.controller.reconciler.run_turn()
    assert get("sleepy").state == "idle"
    find(testbed, "sleepy", "router").load = RouterLoad(calls=1, waiting=1)
    wait_until(lambda: get("sleepy").state == "running")
    assert sorted(list_launches(testbed, "sleepy")) == ["sleepy", "sleepy--1", "sleepy--router"]
    wait_until(lambda: None not in [each["url"] for each in read_table(testbed, "sleepy", "router")["replicas"]])


def test_a_replica_with_calls_does_not_sleep(testbed: Any, wait_until: Any) -> None:
    """One that gets a call after all, before its router knows, ends after it."""
    start(testbed, "awake", 1, idleStop=60.0)
    find(testbed, "awake", "router").load = RouterLoad(calls=1)
    await_turns(testbed, wait_until)  # no turn has the load of before
    find(testbed, "awake", 0).load.idleSeconds = 61.0
    testbed.controller.reconciler.run_turn()
    assert testbed.controller.backends.get("awake").state == "running"
    row = testbed.controller.backends.get_row("awake")
    may_end = testbed.controller.reconciler._sleep.may_end
    for load in (RouterLoad(calls=2, waiting=1), RouterLoad(reachable=1), RouterLoad(calls=1, waiting=1)):
        find(testbed, "awake", "router").load = load
        assert may_end(row) == (load.calls == load.waiting == 1)
    find(testbed, "awake", 0).load.idleSeconds = 0.0
    assert not may_end(row)


def test_a_call_wakes_a_launch_that_has_not_ended(testbed: Any, wait_until: Any) -> None:
    """It still answers an earlier call, and serves again."""
    start(testbed, "kept", 2, idleStop=60.0)
    before = list_launches(testbed, "kept")
    find(testbed, "kept", "router").load = RouterLoad(calls=2, waiting=1)
    put_to_sleep(testbed, "kept", 0, 1)
    await_state(testbed, "kept", "running", wait_until)
    assert list_launches(testbed, "kept") == before


def test_a_launch_that_ends_does_not_serve_again(testbed: Any, wait_until: Any) -> None:
    """A call that comes meanwhile waits for the next launch, which the end of the former leaves alone."""
    start(testbed, "ending", 1, idleStop=60.0)
    engine, before = testbed.engine, list_launches(testbed, "ending")
    find(testbed, "ending", 0).load.idleSeconds = 61.0
    gate = engine.gates["destroy"] = threading.Event()
    wait_until(lambda: "destroy" in engine.steps[-50:])
    wait_until(lambda: testbed.controller.backends.get_row("ending").record is None)
    find(testbed, "ending", "router").load = RouterLoad(calls=1, waiting=1)
    await_turns(testbed, wait_until)
    row = testbed.controller.backends.get_row("ending")
    assert (row.state, row.launch) == ("idle", before["ending"])
    starts = engine.steps.count("start")
    del engine.gates["destroy"]
    gate.set()
    await_state(testbed, "ending", "running", wait_until)
    assert engine.steps.count("start") == starts + 1
    after = list_launches(testbed, "ending")
    assert after["ending"] != before["ending"]
    assert after["ending"] == testbed.controller.backends.get_row("ending").launch


def test_a_launch_whose_end_a_killed_controller_began(testbed: Any, wait_until: Any) -> None:
    """The next controller ends it. Then the replica can wake."""
    start(testbed, "halfway", 1, idleStop=60.0)
    backends = testbed.controller.backends
    with testbed.controller.database.write() as session:  # as begin_end and a kill leave it
        row = session.get_one(LaunchRow, "halfway")
        row.state, row.record = "idle", None
    wait_until(lambda: backends.get_row("halfway").launch is None)
    assert list(list_launches(testbed, "halfway")) == ["halfway--router"]
    find(testbed, "halfway", "router").load = RouterLoad(calls=1, waiting=1)
    await_state(testbed, "halfway", "running", wait_until)


def test_the_router_of_a_sleeping_backend_is_replaced(
    testbed: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is not ready while no replica has an address. It runs all the same, and its calls wake replicas."""
    start(testbed, "nightly", 1, idleStop=60.0)
    find(testbed, "nightly", 0).load.idleSeconds = 61.0
    wait_until(lambda: list(list_launches(testbed, "nightly")) == ["nightly--router"])
    start_launch = testbed.engine.start

    def start_unready(launch: Launch, progress: Any) -> LaunchRecord:
        record = start_launch(launch, progress)
        if launch.router:
            testbed.engine.launches[launch.id].ready = False
        return record

    monkeypatch.setattr(testbed.engine, "start", start_unready)
    router = find(testbed, "nightly", "router")
    router.parts["server"] = PartState("exited", "killed")
    wait_until(lambda: list_launches(testbed, "nightly").get("nightly--router") not in {None, router.launch.id})
    wait_until(lambda: testbed.controller.backends.get_row("nightly--router").state == "running")
    assert testbed.controller.backends.get("nightly").state == "idle"
    find(testbed, "nightly", "router").load = RouterLoad(calls=1, waiting=1)
    await_state(testbed, "nightly", "running", wait_until)


def test_more_replicas_wake_a_sleeping_backend(testbed: Any, wait_until: Any) -> None:
    """All of them run when the operation ends. Fewer leave it asleep."""
    start(testbed, "grown", 2, idleStop=60.0)
    for number in range(2):
        find(testbed, "grown", number).load.idleSeconds = 61.0
    wait_until(lambda: list(list_launches(testbed, "grown")) == ["grown--router"])
    operation = testbed.wait(testbed.controller.scaler.scale("grown", 1)[1])
    assert (operation.state, operation.error) == ("succeeded", None)
    assert testbed.controller.backends.get("grown").state == "idle"
    wait_until(lambda: len(testbed.controller.backends.list_replicas("grown")) == 1)
    operation = testbed.wait(testbed.controller.scaler.scale("grown", 3)[1])
    assert (operation.state, operation.error) == ("succeeded", None)
    assert sorted(list_launches(testbed, "grown")) == ["grown", "grown--1", "grown--2", "grown--router"]


def test_a_replica_does_not_sleep_alone(testbed: Any, wait_until: Any) -> None:
    """Calls reach the others, so none waits that would wake it."""
    start(testbed, "alone", 2, idleStop=60.0)
    put_to_sleep(testbed, "alone", 1)
    await_state(testbed, "alone", "running", wait_until)
    row = testbed.controller.backends.find_replica("alone", 0)
    testbed.controller.backends.update("alone", failures=1)
    assert not testbed.controller.reconciler._sleep.begin([testbed.controller.backends.find_replica("alone", 1), row])
    await_state(testbed, "alone", "running", wait_until)


def test_a_backend_does_not_sleep_while_a_former_launch_drains(testbed: Any, wait_until: Any) -> None:
    """Its router knows that launch, so calls would not wait."""
    start(testbed, "drained", 1, idleStop=60.0)
    with testbed.controller.database.write() as session:
        row = session.get_one(LaunchRow, "drained")
        beside = make_next_row(row)
        beside.stage, beside.drain_until, beside.state = FORMER, time.time() + 600, "running"
        beside.launch, beside.record = row.launch, row.record
        session.add(beside)
        name = beside.name
    await_turns(testbed, wait_until)  # none began before the row was there
    find(testbed, "drained", 0).load.idleSeconds = 61.0
    await_turns(testbed, wait_until)
    assert testbed.controller.backends.get("drained").state == "running"
    with testbed.controller.database.write() as session:
        session.delete(session.get_one(LaunchRow, name))
    wait_until(lambda: testbed.controller.backends.get("drained").state == "idle")
