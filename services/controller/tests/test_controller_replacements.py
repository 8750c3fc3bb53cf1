"""Launches that are replaced while they serve: the successor, the switch, and the end of the former one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness.ports import free_port

from venvd_contract.errors import Unavailable
from venvd_contract.internal.messages import LoadReport
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller import updates
from venvd_engines.engine import PartState

from .conftest import Testbed, wait_until  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow

STEPS = ("start", "take_address", "stop", "destroy")
"""The steps of an update in which the engine can hold it up."""


@pytest.fixture(autouse=True)
def _moving(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses lead to another launch, as on Kubernetes; drained launches end soon."""
    engine.moving_types = frozenset({"http"})
    monkeypatch.setattr(updates, "_SETTLED_SECONDS", 0.0)


def _build(testbed: Any, *requirements: str) -> None:
    testbed.wait(testbed.controller.venvs.put("plain", VenvSpec(python="3.13", requirements=list(requirements)))[1])


def _start(testbed: Any, name: str = "app", **fields: Any) -> str:
    """Start a backend with `rolling`; return its launch."""
    spec = BackendSpec("http", "plain", name, update="rolling", **fields)
    assert testbed.wait(testbed.controller.backends.start(spec)[1]).state == "succeeded"
    return str(testbed.controller.backends.get_row(name).launch)


def _await_switch(testbed: Any, launch: str, name: str = "app") -> Any:
    row = wait_until(lambda: (row := testbed.controller.backends.get_row(name)).launch != launch and row)
    wait_until(lambda: not testbed.controller.backends.get(name).updating)
    return row


def _read_table(testbed: Any, launch: str) -> Any:
    return json.loads(testbed.engine.launches[launch].keys)["siblings"]


def test_a_successor_takes_the_place_of_a_launch_that_drains(testbed: Any) -> None:
    """All servers know which sessions the former launch has. It ends when these have, and nothing of it is left."""
    _build(testbed)
    former = _start(testbed)
    old = testbed.engine.launches[former]
    old.load = LoadReport(sessions=2, most=64)
    token = testbed.controller.backends.get("app").token
    _build(testbed, "numpy")
    row = _await_switch(testbed, former)
    assert testbed.engine.taken == [(row.launch, former)]
    backend = testbed.controller.backends.get("app")
    assert (backend.state, backend.outdated, backend.token, backend.replicas) == ("running", False, token, [])
    wait_until(lambda: len(_read_table(testbed, row.launch)["replicas"]) == 2)
    assert _read_table(testbed, row.launch)["replicas"][1]["sessions"] is None
    assert _read_table(testbed, former)["own"] == 1
    old.load = LoadReport(sessions=2, most=64, left=["kept"])
    wait_until(lambda: _read_table(testbed, row.launch)["replicas"][1]["sessions"] == ["kept"])
    assert former in testbed.engine.launches
    old.load = LoadReport(sessions=1, most=64, left=[])
    wait_until(lambda: [each.launch for each in testbed.controller.backends.list_rows()] == [row.launch])
    assert list(testbed.engine.launches) == [row.launch]
    wait_until(lambda: len(_read_table(testbed, row.launch)["replicas"]) == 1)


def test_a_successor_knows_the_launch_before_it_from_its_start(testbed: Any) -> None:
    """The address may lead to it before its server reads another table; sessions and calls are found even then."""
    _build(testbed)
    former = _start(testbed)
    url = testbed.controller.backends.get_row("app").url
    testbed.engine.ready = False
    _build(testbed, "numpy")
    wait_until(lambda: len(testbed.engine.launches) == 2)
    [successor] = testbed.engine.launches.keys() - {former}
    table = _read_table(testbed, successor)
    left = [(each["left"], each["url"], each["sessions"]) for each in table["replicas"]]
    assert (left[1:], table["own"]) == ([(0, url, None)], None)


def test_a_former_launch_ends_after_its_time(testbed: Any) -> None:
    """Also with sessions that their clients keep."""
    _build(testbed)
    former = _start(testbed, drainTimeout=0.5)
    testbed.engine.launches[former].load = LoadReport(sessions=2, most=64, busy=1, left=["kept"])
    _build(testbed, "numpy")
    row = _await_switch(testbed, former)
    wait_until(lambda: list(testbed.engine.launches) == [row.launch])


def test_replicas_are_replaced_one_after_the_other(testbed: Any) -> None:
    """There is never more than one successor, and a replica that fails leaves the others as they are."""
    _build(testbed)
    _start(testbed, replicas=3)
    before = [row.launch for row in testbed.controller.backends.list_replicas("app")]
    start, most = testbed.engine.start, []

    def refuse_the_second(launch: Any, progress: Any) -> Any:
        most.append(sum(row.stage == "next" and row.wanted for row in testbed.controller.backends.list_rows()))
        if launch.name == "app--1":
            raise Unavailable("no room")
        return start(launch, progress)

    testbed.engine.start = refuse_the_second
    _build(testbed, "numpy")
    wait_until(lambda: testbed.controller.backends.get("app").error)
    failed = testbed.controller.backends.get("app")
    assert failed.error == (
        "replica 1: it runs on as it was, since its update failed: the new launch of replica 1 is not ready: no room"
    )
    after = [row.launch for row in testbed.controller.backends.list_replicas("app")]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]
    assert (failed.state, failed.outdated) == ("running", True)
    testbed.engine.start = start
    wait_until(lambda: not testbed.controller.backends.get("app").outdated)
    assert testbed.controller.backends.get("app").error is None
    assert set(most) == {1}


def test_a_backend_that_ends_after_a_failed_update_starts_with_its_build(testbed: Any) -> None:
    """The newest build is known not to start."""
    _build(testbed)
    launch = _start(testbed)
    key = testbed.controller.backends.get_row("app").key
    start = testbed.engine.start

    def refuse(launch: Any, progress: Any) -> Any:
        if launch.image.key != key:
            raise Unavailable("it does not start")
        return start(launch, progress)

    testbed.engine.start = refuse
    _build(testbed, "numpy")
    wait_until(lambda: testbed.controller.backends.get("app").error)
    testbed.engine.launches[launch].parts["worker"] = PartState("exited", "killed")
    wait_until(lambda: testbed.controller.backends.get_row("app").launch not in {launch, None})
    testbed.await_running("app")
    assert testbed.controller.backends.get_row("app").key == key


def test_a_cancelled_update_waits_for_the_next_build(testbed: Any) -> None:
    """The backend runs on, and its successor is removed."""
    _build(testbed)
    launch = _start(testbed)
    testbed.engine.ready = False
    _build(testbed, "numpy")
    wait_until(lambda: len(testbed.engine.launches) == 2)
    [active] = testbed.controller.operations.list_all(None, 1, kind="backend.update")
    testbed.controller.operations.cancel(active.id)
    wait_until(lambda: list(testbed.engine.launches) == [launch])
    assert testbed.wait(active).state == "cancelled"
    testbed.engine.ready = True
    turn = testbed.controller.reconciler.last_turn
    wait_until(lambda: testbed.controller.reconciler.last_turn > turn)
    assert not testbed.controller.backends.get("app").updating
    _build(testbed, "numpy", "pandas")
    _await_switch(testbed, launch)


@pytest.mark.parametrize("ending", ["removed", "restarted", "scaled"])
def test_a_change_during_an_update_leaves_nothing_behind(testbed: Any, ending: str) -> None:
    """A backend that is removed, restarted or scaled meanwhile has the launches that it should have."""
    _build(testbed)
    _start(testbed, replicas=2)
    testbed.engine.ready = False
    _build(testbed, "numpy")
    wait_until(lambda: len(testbed.engine.launches) == 3)
    testbed.engine.ready = True
    if ending == "removed":
        testbed.controller.backends.request_removal("app")
    elif ending == "restarted":
        assert testbed.wait(testbed.controller.backends.restart("app")[1]).state == "succeeded"
    else:
        testbed.controller.scaler.scale("app", 1)
    count = {"removed": 0, "restarted": 2, "scaled": 1}[ending]
    for backend in list(testbed.engine.launches.values()):
        backend.ready, backend.load = True, LoadReport(sessions=1, most=64, left=[])
    wait_until(lambda: len(testbed.controller.backends.list_rows()) == count)
    wait_until(lambda: len(testbed.engine.launches) == count)
    assert {row.launch for row in testbed.controller.backends.list_rows()} == set(testbed.engine.launches)
    assert {row.stage for row in testbed.controller.backends.list_rows()} <= {None}


@pytest.mark.parametrize("moves", [True, False], ids=["moving", "ports"])
@pytest.mark.parametrize("step", STEPS)
def test_the_next_controller_ends_an_update(
    create_testbed: Callable[..., Testbed], engine: Any, step: str, moves: bool
) -> None:
    """It goes on where the one before was stopped; one launch is left, at the address and with the new build."""
    engine.moving_types = frozenset({"http"} if moves else ())
    with create_testbed().started() as testbed:
        _build(testbed)
        former = _start(testbed, **({} if moves else {"port": free_port()}))  # other test processes use the usual ones
        url, key = testbed.controller.backends.get_row("app").url, testbed.controller.backends.get_row("app").key
        engine.launches[former].load = LoadReport(sessions=1, most=64, left=[])
        begun = len(engine.steps)
        engine.faults[step] = Unavailable("the engine is away")
        testbed.controller.venvs.put("plain", VenvSpec(python="3.13", requirements=["numpy"]))
        if moves or step != "take_address":  # which a port does without
            wait_until(lambda: step in engine.steps[begun:])
    engine.faults.clear()
    with create_testbed().started() as testbed:
        wait_until(lambda: testbed.controller.backends.get_row("app").key != key)
        wait_until(lambda: not testbed.controller.operations.list_active_targets())
        for backend in list(engine.launches.values()):
            backend.load = LoadReport(sessions=1, most=64, left=[])
        wait_until(lambda: len(engine.launches) == len(testbed.controller.backends.list_rows()) == 1)
        row = testbed.await_running("app") and testbed.controller.backends.get_row("app")
        assert list(engine.launches) == [row.launch]
        assert moves or row.url == url


def test_a_rollback_that_does_not_start_leaves_the_backend_as_it_is(testbed: Any) -> None:
    """Its operation fails with the reason, and the backend keeps its launch and its build."""
    _build(testbed)
    former = _start(testbed)
    _build(testbed, "numpy")
    row = _await_switch(testbed, former)
    testbed.engine.ready = False
    testbed.engine.launches[row.launch].ready = True
    operation = testbed.controller.updates.roll_back("app")[1]
    wait_until(lambda: any(each.stage == "next" and each.record for each in testbed.controller.backends.list_rows()))
    [following] = [each for each in testbed.controller.backends.list_rows() if each.stage == "next"]
    testbed.engine.launches[following.launch].parts["worker"] = PartState("exited", "status 1")
    ended = testbed.wait(operation)
    assert (ended.state, "its worker is exited (status 1)" in str(ended.error)) == ("failed", True)
    after = testbed.controller.backends.get_row("app")
    assert (after.launch, after.key, after.pinned_key) == (row.launch, row.key, None)
    assert testbed.controller.backends.get("app").state == "running"
