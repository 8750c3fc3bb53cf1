"""The main job over the REST API: a venv becomes an image, and the image a running backend that answers."""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Any

import pytest
from harness.controller import Controller, caller, unique
from harness.ports import free_port

from venvd_contract.errors import Conflict, InUse

pytestmark = pytest.mark.network


def test_a_backend_runs_what_its_venv_holds(controller: Controller, small: str, backend: dict[str, Any]) -> None:
    """User code sees the pinned package at its exact version, and the venv's CPython."""
    with closing(caller(backend)) as call:
        assert call("eval", {"expression": "__import__('six').__version__"}) == {"value": "1.17.0"}
        version = call("eval", {"expression": "__import__('platform').python_version()"})["value"]
    assert version == controller.api("GET", f"/v1/venvs/{small}")["python"]


def test_an_unchanged_venv_needs_no_build(controller: Controller, small: str) -> None:
    """A second `PUT` of the same venv starts no operation."""
    spec = controller.api("GET", f"/v1/venvs/{small}")["spec"]
    assert controller.api("PUT", f"/v1/venvs/{small}", spec)["operation"] is None


def test_equal_venvs_share_one_image(controller: Controller, small: str) -> None:
    """Two venvs of the same content have one key."""
    spec = controller.api("GET", f"/v1/venvs/{small}")["spec"]
    other = controller.venv("twin", **spec)
    assert other["key"] == controller.api("GET", f"/v1/venvs/{small}")["key"]
    controller.api("DELETE", "/v1/venvs/twin")


def test_packages_and_lock_can_be_read(controller: Controller, small: str) -> None:
    """The API lists the installed packages and the lock, which names no index."""
    packages = controller.api("GET", f"/v1/venvs/{small}/packages")
    assert {"name": "six", "version": "1.17.0"} in packages["items"]
    lock = controller.api("GET", f"/v1/venvs/{small}/lock")["lock"]
    assert "six==1.17.0" in lock
    assert "--hash=sha256:" in lock
    assert "http" not in lock


def test_a_used_venv_is_not_deleted(controller: Controller, small: str, backend: dict[str, Any]) -> None:
    """The refusal to delete a venv names the backend that uses it."""
    with pytest.raises(InUse, match=backend["name"]):
        controller.api("DELETE", f"/v1/venvs/{small}")


def test_a_taken_name_is_a_conflict(controller: Controller, small: str, backend: dict[str, Any]) -> None:
    """A second backend of the same name is refused."""
    with pytest.raises(Conflict, match=backend["name"]):
        controller.api("POST", "/v1/backends", {"venv": small, "type": "http", "name": backend["name"]})


def test_a_backend_is_restarted_and_deleted(controller: Controller, small: str) -> None:
    """A restart keeps URL and token and drops the state; a `DELETE` closes the port."""
    before = controller.backend(small, name=unique("again"), port=free_port())
    with closing(caller(before)) as call:
        call("eval", {"expression": "old = 1"})
    started = controller.api("POST", f"/v1/backends/{before['name']}/restart")
    controller.wait(started["operation"])
    after = controller.await_running(before["name"])
    assert (after["url"], after["token"]) == (before["url"], before["token"])
    with closing(caller(after)) as call:
        assert call("eval", {"expression": "'old' in globals()"}) == {"value": False}
    controller.delete_backend(before["name"])
    with pytest.raises(OSError, match="refused"):
        caller(after)("ping")


def test_two_runtimes_side_by_side(controller: Controller) -> None:
    """CPython 3.11 and 3.13 run at once, and each reports its exact version."""
    minors = ("3.11", "3.13")
    for minor in minors:
        operation = controller.api("PUT", f"/v1/runtimes/{minor}")["operation"]
        if controller.engine == "local" and operation and controller.wait(operation)["state"] == "failed":
            pytest.skip(f"this machine has no CPython {minor}, and none can be fetched")
    names = {minor: unique(f"py{minor.replace('.', '-')}") for minor in minors}
    started = []
    for minor, name in names.items():
        controller.api("PUT", f"/v1/venvs/{name}", {"python": minor})
        started.append(controller.api("POST", "/v1/backends", {"venv": name, "type": "http", "name": name}))
    assert [controller.wait(start["operation"])["state"] for start in started] == ["succeeded"] * 2
    for minor, name in names.items():
        with closing(caller(controller.await_running(name))) as call:
            version = call("eval", {"expression": "__import__('platform').python_version()"})["value"]
        assert version == controller.api("GET", f"/v1/venvs/{name}")["python"]
        assert version.startswith(f"{minor}.")
    for name in names.values():
        controller.delete_backend(name)


def test_metrics_of_a_backend_are_read_through_the_controller(controller: Controller, backend: dict[str, Any]) -> None:
    """`/v1/sd/prometheus` names a path of the controller with the backend's own metrics."""
    with closing(caller(backend)) as call:
        call("eval", {"expression": "1"})
    paths = [target["labels"]["__metrics_path__"] for target in controller.api("GET", "/v1/sd/prometheus")]
    (path,) = [path for path in paths if f"/{backend['name']}/" in path]
    token = (controller.home / "metrics-token").read_text().strip()
    with closing(http.client.HTTPConnection("127.0.0.1", controller.port)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        text = connection.getresponse().read().decode()
    assert "venvd_requests_total{" in text
