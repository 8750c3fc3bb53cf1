"""Backends that are older than their venv or the program, and those that a manifest declares."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import Conflict, Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.clock import add_seconds, count_seconds, now
from venvd_engines.engine import PartState

from .conftest import running_testbed, wait_until  # type: ignore[import-not-found]

MANIFEST = """
venvs: [{name: plain, python: "3.13"}]
backends: [{name: app, type: http, venv: plain}]
"""


@contextmanager
def _declaring(tmp_path: Path) -> Any:
    """A controller with a manifest, and the manifest."""
    path = tmp_path / "venvd.yaml"
    path.write_text(MANIFEST)
    with running_testbed(home=tmp_path / "home", manifest=path) as testbed:
        _await_app(testbed)
        yield testbed, path


def _await_app(testbed: Any) -> None:
    """Wait until the manifest's backend runs."""
    wait_until(lambda: [row.state for row in testbed.controller.backends.list_rows()] == ["running"])


def _build(testbed: Any, *requirements: str) -> None:
    spec = VenvSpec(python="3.13", requirements=list(requirements))
    testbed.wait(testbed.controller.venvs.put("plain", spec)[1])


def _list_outdated(testbed: Any) -> set[str]:
    items = testbed.client.get("/v1/backends").json()["items"]
    for item in items:
        assert testbed.client.get(f"/v1/backends/{item['name']}").json() == item
    return {item["name"] for item in items if item["outdated"]}


def test_backends_with_an_older_build_are_outdated(tmp_path: Path) -> None:
    """A backend is outdated from a new build of its venv until its restart; one that does not run never is."""
    with running_testbed(home=tmp_path / "other") as testbed:
        _build(testbed)
        for name in ("one", "other"):
            testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name))[1])
        assert _list_outdated(testbed) == set()
        _build(testbed, "numpy")
        assert _list_outdated(testbed) == {"one", "other"}
        testbed.wait(testbed.controller.backends.restart("one")[1])
        assert _list_outdated(testbed) == {"other"}
        _build(testbed)
        assert _list_outdated(testbed) == {"one"}


def test_backends_with_an_older_server_are_outdated(testbed: Any) -> None:
    """After an upgrade each backend is outdated until its restart, and one with `rolling` restarts by itself."""
    _build(testbed)
    testbed.engine.user_ids = range(5000, 5010)
    for name, update in (("a", "manual"), ("b", "rolling"), ("c", "rolling")):
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name, update=update))[1])
    first = {name: testbed.controller.backends.get_row(name).launch for name in "abc"}
    testbed.engine.server = 2
    wait_until(lambda: [item.name for item in testbed.controller.backends.list_all() if item.outdated] == ["a"])
    testbed.await_running("b")
    testbed.await_running("c")
    now = {name: testbed.controller.backends.get_row(name).launch for name in "abc"}
    assert {name for name in "abc" if now[name] != first[name]} == {"b", "c"}


def test_a_rolling_update_stops_at_a_backend_that_fails(testbed: Any) -> None:
    """Where the newest build does not start, all backends of the venv run on with the build that they have."""
    _build(testbed)
    for name in ("a", "b"):
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name, update="rolling"))[1])
    before = {name: testbed.controller.backends.get_row(name).launch for name in "ab"}
    testbed.engine.faults["start"] = Unavailable("it does not start")
    _build(testbed, "numpy")
    wait_until(lambda: testbed.controller.backends.get_row("a").update_failures > 1)
    assert {name: testbed.controller.backends.get_row(name).launch for name in "ab"} == before
    failed = testbed.controller.backends.get("a")
    assert (failed.state, failed.outdated) == ("running", True)
    assert failed.error.endswith("the new launch of replica 0 is not ready: it does not start")
    assert len(testbed.engine.launches) == 2
    del testbed.engine.faults["start"]
    wait_until(
        lambda: not any(item.outdated or item.state != "running" for item in testbed.controller.backends.list_all())
    )
    assert testbed.controller.backends.get_row("b").launch != before["b"]
    assert testbed.controller.backends.get("a").error is None


def test_a_backend_is_removed_when_its_time_to_live_ends(testbed: Any) -> None:
    """It counts from the creation, also over a restart; a backend without one stays."""
    _build(testbed)
    for name, ttl in (("stays", None), ("later", 3600), ("soon", 3600)):
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name, ttl=ttl))[1])
    listed = {item.name: item for item in testbed.controller.backends.list_all()}
    assert listed["stays"].expiresAt is None
    assert count_seconds(listed["later"].createdAt, listed["later"].expiresAt) == 3600
    testbed.wait(testbed.controller.backends.restart("soon")[1])
    assert testbed.controller.backends.get("soon").expiresAt == listed["soon"].expiresAt
    testbed.controller.backends.update("soon", created_at=add_seconds(now(), -3601))
    wait_until(lambda: [row.name for row in testbed.controller.backends.list_rows()] == ["later", "stays"])
    assert {launch.launch.name for launch in testbed.engine.launches.values()} == {"stays", "later"}
    assert [
        (line.target, "time to live" in str(line.fields))
        for line in testbed.controller.audit.list_all(None, 100, None, None)
        if line.method == "backend.end"
    ] == [("/backends/soon", True)]


@pytest.mark.parametrize("ttl", [0, -1, 1e12])
def test_a_wrong_time_to_live_is_refused(shared_client: Any, ttl: float) -> None:
    """The error says what is allowed."""
    refused = shared_client.post("/v1/backends", json={"type": "http", "ttl": ttl})
    assert (refused.status_code, "more than 0" in refused.json()["detail"]) == (400, True)


def test_a_wrong_update_is_refused(shared_client: Any) -> None:
    """The error names both words."""
    refused = shared_client.post("/v1/backends", json={"type": "http", "update": "sometimes"})
    assert (refused.status_code, "manual or rolling" in refused.json()["detail"]) == (400, True)


def test_a_declared_backend_is_not_stopped_by_mistake(tmp_path: Path) -> None:
    """Its manifest would start it again: the error names the manifest and the way to stop it."""
    with _declaring(tmp_path) as (testbed, path):
        refused = testbed.client.delete("/v1/backends/app")
        assert refused.status_code == 409
        assert str(path) in refused.json()["detail"]
        assert "venvd stop app --until-changed" in refused.json()["detail"]
        assert testbed.client.get("/v1/status").json()["manifest"] == str(path)
        assert testbed.client.delete("/v1/backends/app?untilChanged=true").status_code == 204
        for _ in range(2):
            turn = testbed.controller.reconciler.last_turn
            wait_until(lambda turn=turn: testbed.controller.reconciler.last_turn != turn)
        assert testbed.client.get("/v1/backends").json()["items"] == []
        path.write_text(MANIFEST + "providers: []\n")
        _await_app(testbed)


def test_a_stopped_backend_stays_stopped_over_a_restart(create_testbed: Any, tmp_path: Path) -> None:
    """A controller that starts anew leaves a declared backend stopped while the manifest is the same."""
    path = tmp_path / "venvd.yaml"
    path.write_text(MANIFEST)
    with create_testbed(manifest=path).started() as testbed:
        _await_app(testbed)
        testbed.controller.manifest_sync.stop_backend("app", until_changed=True)
    with create_testbed(manifest=path).started() as testbed:
        assert [row.name for row in testbed.controller.backends.list_rows() if row.wanted] == []
    path.write_text(MANIFEST + "# changed\n")
    with create_testbed(manifest=path).started() as testbed:
        _await_app(testbed)


def _read_keys(testbed: Any, *names: str) -> list[str | None]:
    return [testbed.controller.backends.get_row(name).key for name in names]


def test_a_rollback_takes_the_build_before(testbed: Any) -> None:
    """All replicas go back and stay there after an end; a second rollback goes forward, as does a restart."""
    _build(testbed)
    backends, names = testbed.controller.backends, ("turning", "turning--1")
    testbed.wait(backends.start(BackendSpec("http", "plain", "turning", replicas=2))[1])
    first = _read_keys(testbed, *names)
    _build(testbed, "numpy")
    testbed.wait(backends.restart("turning")[1])
    roll_back = testbed.controller.updates.roll_back
    second = _read_keys(testbed, *names)
    assert second != first
    assert testbed.wait(roll_back("turning")[1]).state == "succeeded"
    assert _read_keys(testbed, *names) == first
    assert backends.get("turning").outdated
    launch = backends.get_row("turning").launch
    testbed.engine.find_backend("turning").parts["worker"] = PartState("exited", "killed")
    wait_until(lambda: backends.get_row("turning").launch != launch)
    testbed.await_running("turning")
    wait_until(lambda: not testbed.controller.operations.list_active_targets("backend.start"))
    assert _read_keys(testbed, *names) == first
    testbed.wait(roll_back("turning")[1])
    assert _read_keys(testbed, *names) == second
    testbed.wait(roll_back("turning")[1])
    testbed.wait(backends.restart("turning")[1])
    assert _read_keys(testbed, *names) == second


def test_a_rollback_without_an_earlier_build_is_refused(testbed: Any) -> None:
    """The backend runs on."""
    _build(testbed)
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "fresh"))[1])
    launch = testbed.controller.backends.get_row("fresh").launch
    with pytest.raises(Conflict, match='replica 0 of "fresh" has run no other build'):
        testbed.controller.updates.roll_back("fresh")
    assert testbed.controller.backends.get_row("fresh").launch == launch


def test_a_rolling_update_does_not_take_back_what_a_rollback_left(testbed: Any) -> None:
    """A later build is taken."""
    _build(testbed)
    backends = testbed.controller.backends
    testbed.wait(backends.start(BackendSpec("http", "plain", "rolled", update="rolling"))[1])
    [first] = _read_keys(testbed, "rolled")
    _build(testbed, "numpy")
    wait_until(lambda: _read_keys(testbed, "rolled") != [first])
    testbed.await_running("rolled")
    wait_until(lambda: not testbed.controller.operations.list_active_targets())
    testbed.wait(testbed.controller.updates.roll_back("rolled")[1])
    testbed.controller.reconciler.run_turn()
    assert _read_keys(testbed, "rolled") == [first]
    assert backends.get("rolled").state == "running"
    _build(testbed, "numpy", "pandas")
    wait_until(lambda: _read_keys(testbed, "rolled") != [first])
