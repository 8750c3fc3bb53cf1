"""The main job over the REST API: a venv becomes an image, the image a running backend that answers."""

from __future__ import annotations

import pytest
from harness.controller import Controller, caller, unique
from harness.ports import free_port

from venvd_contract.errors import Conflict, InUse, NotFound

pytestmark = pytest.mark.network


def test_a_backend_runs_what_its_venv_holds(controller: Controller, small: str) -> None:
    """User code sees the pinned package at its exact version, and the venv's CPython."""
    backend = controller.backend(small, name=unique("main"))
    call = caller(backend)
    try:
        assert call("eval", {"expression": "__import__('six').__version__"}) == {"value": "1.17.0"}
        version = call("eval", {"expression": "__import__('platform').python_version()"})["value"]
        assert version == controller.api("GET", f"/v1/venvs/{small}")["python"]
    finally:
        call.close()
        controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_an_unchanged_venv_costs_no_build(controller: Controller, small: str) -> None:
    """Putting the same venv again makes no operation."""
    spec = controller.api("GET", f"/v1/venvs/{small}")["spec"]
    assert controller.api("PUT", f"/v1/venvs/{small}", spec)["operation"] is None


def test_equal_venvs_share_one_image(controller: Controller, small: str) -> None:
    """Two venvs of the same content have one key."""
    spec = controller.api("GET", f"/v1/venvs/{small}")["spec"]
    other = controller.venv("twin", **spec)
    assert other["key"] == controller.api("GET", f"/v1/venvs/{small}")["key"]
    controller.api("DELETE", "/v1/venvs/twin")


def test_packages_and_lock_are_told(controller: Controller, small: str) -> None:
    """What is installed and what it was locked to can be read; the lock names no index."""
    packages = controller.api("GET", f"/v1/venvs/{small}/packages")
    listed = packages["items"] if isinstance(packages, dict) else packages
    assert {"name": "six", "version": "1.17.0"} in listed
    lock = controller.api("GET", f"/v1/venvs/{small}/lock")
    text = lock["lock"] if isinstance(lock, dict) else lock
    assert "six==1.17.0" in text
    assert "--hash=sha256:" in text
    assert "http" not in text


def test_a_used_venv_is_not_deleted(controller: Controller, small: str) -> None:
    """Deleting a venv that a backend uses names the backend."""
    backend = controller.backend(small, name=unique("user"))
    with pytest.raises(InUse, match=backend["name"]):
        controller.api("DELETE", f"/v1/venvs/{small}")
    controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_a_taken_name_is_a_conflict(controller: Controller, small: str) -> None:
    """A second backend of the same name is refused."""
    backend = controller.backend(small, name=unique("once"))
    with pytest.raises(Conflict, match=backend["name"]):
        controller.api("POST", "/v1/backends", {"venv": small, "type": "http", "name": backend["name"]})
    controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_a_restart_keeps_url_and_token(controller: Controller, small: str) -> None:
    """After `restart` the client's URL and token still work, on a fresh state."""
    backend = controller.backend(small, name=unique("again"), port=free_port())
    call = caller(backend)
    call("eval", {"expression": "old = 1"})
    call.close()
    started = controller.api("POST", f"/v1/backends/{backend['name']}/restart")
    controller.wait(started["operation"])
    again = controller.until_running(backend["name"])
    assert (again["url"], again["token"]) == (backend["url"], backend["token"])
    call = caller(again)
    assert call("eval", {"expression": "'old' in globals()"}) == {"value": False}
    call.close()
    controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_a_deleted_backend_is_gone(controller: Controller, small: str) -> None:
    """After DELETE the name is free and the port closed."""
    backend = controller.backend(small, name=unique("gone"))
    controller.api("DELETE", f"/v1/backends/{backend['name']}")
    controller_until_gone(controller, backend["name"])
    with pytest.raises(OSError, match="refused"):
        caller(backend)("ping")


def controller_until_gone(controller: Controller, name: str) -> None:
    import time

    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            controller.api("GET", f"/v1/backends/{name}")
        except NotFound:
            return
        time.sleep(0.1)
    raise AssertionError(f"{name} is still there")


def test_two_runtimes_side_by_side(controller: Controller) -> None:
    """CPython 3.11 and 3.13 run at once, each reporting its exact version."""
    for minor in ("3.11", "3.13"):
        operation = controller.api("PUT", f"/v1/runtimes/{minor}")["operation"]
        if controller.engine == "local" and operation and controller.wait(operation)["state"] == "failed":
            pytest.skip(f"this machine has no CPython {minor}, and none can be fetched")
    found = {}
    for minor in ("3.11", "3.13"):
        name = unique(minor.replace(".", "-"))
        venv = controller.venv(f"py{name}", python=minor)
        backend = controller.backend(venv["name"], name=f"b{name}")
        call = caller(backend)
        found[minor] = call("eval", {"expression": "__import__('platform').python_version()"})["value"]
        call.close()
        assert found[minor] == venv["python"]
    assert all(version.startswith(minor + ".") for minor, version in found.items())
    for backend in controller.api("GET", "/v1/backends")["items"]:
        controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_metrics_of_a_backend_are_read_through_the_controller(controller: Controller, small: str) -> None:
    """`/v1/sd/prometheus` names a path at the controller that gives the backend's own numbers."""
    backend = controller.backend(small, name=unique("seen"))
    call = caller(backend)
    call("eval", {"expression": "1"})
    call.close()
    targets = controller.api("GET", "/v1/sd/prometheus")
    mine = [target for target in targets if backend["name"] in target["labels"]["__metrics_path__"]]
    assert len(mine) == 1
    connection = __import__("http.client").client.HTTPConnection("127.0.0.1", controller.port)
    token = (controller.home / "metrics-token").read_text().strip()
    connection.request("GET", mine[0]["labels"]["__metrics_path__"], headers={"Authorization": f"Bearer {token}"})
    text = connection.getresponse().read().decode()
    connection.close()
    assert "venvd_requests_total{" in text
    controller.api("DELETE", f"/v1/backends/{backend['name']}")
