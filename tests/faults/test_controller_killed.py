"""The controller or a part of a backend is killed: nothing is lost, leaked or done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest
from harness.controller import Controller, caller, unique
from harness.ports import free_port
from harness.updates import interrupt_update
from harness.waiting import wait_until

pytestmark = pytest.mark.network
MINOR = f"3.{sys.version_info.minor}"


def test_a_backend_is_adopted_with_its_state(controller: Controller) -> None:
    """After SIGKILL and a new start of the controller, the backend runs on with its session, URL and token."""
    controller.venv("bare", python=MINOR)
    before = controller.backend("bare", name=unique("stays"))
    with closing(caller(before)) as call:
        call("eval", {"expression": "kept = 42"})
        controller.kill()
        assert call("eval", {"expression": "kept"}) == {"value": 42}
        controller.start()
        after = controller.await_running(before["name"])
        assert (after["url"], after["token"], after["restarts"]) == (before["url"], before["token"], 0)
        assert call("eval", {"expression": "kept"}) == {"value": 42}
    controller.delete_backend(before["name"])


@pytest.mark.long
def test_a_build_ends_once(controller: Controller) -> None:
    """The next controller finishes an interrupted build, and nothing incomplete stays."""
    change = controller.api("PUT", "/v1/venvs/cut", {"python": MINOR, "requirements": ["numpy", "six"]})
    controller.await_phase(change["operation"]["id"], "build")
    controller.kill()
    controller.start()
    ended = ("ready", "failed")
    wait_until(lambda: controller.api("GET", "/v1/venvs/cut")["state"] in ended, "the build does not end", 300)
    assert controller.api("GET", "/v1/venvs/cut")["state"] == "ready"
    operations = controller.api("GET", "/v1/operations")["items"]
    assert [item["state"] for item in operations if item["target"] == "cut"].count("succeeded") == 1
    assert not [item for item in operations if item["state"] in {"queued", "running"}]
    if controller.engine == "docker":
        assert list_containers(f"dev.venvd.home={(controller.home / 'id').read_text().strip()}") == []


def list_containers(*labels: str) -> list[str]:
    """List the IDs of all containers with these labels."""
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    listed = subprocess.run(["docker", "ps", "-aq", *filters], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def count_launches(controller: Controller, name: str) -> int:
    """Count the launches that a backend has on its engine."""
    if controller.engine == "docker":
        return len(list_containers(f"dev.venvd.name={name}", "dev.venvd.role=server"))
    states = [json.loads(path.read_text()) for path in (controller.home / "backends").glob("*/state.json")]
    return [state["name"] for state in states].count(name)


@pytest.mark.about("controller")
@pytest.mark.parametrize(("kind", "phase"), [("pipe", "start"), ("pipe", "ready"), ("http", "start"), ("http", "idle")])
def test_an_update_goes_on(controller: Controller, kind: str, phase: str) -> None:
    """The next controller ends the update that a killed one had begun: one launch is left, with the new build."""
    fields = {} if kind == "pipe" else {"port": free_port()}  # no other test takes this port between two launches
    interrupt_update(controller, MINOR, kind, phase, lambda name: count_launches(controller, name), **fields)


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_killed_part_comes_back(controller: Controller, part: str) -> None:
    """The controller restarts a backend that lost its server or its worker host, under the same URL and token."""
    controller.venv("bare", python=MINOR)
    before = controller.backend("bare", name=unique("hit"), port=free_port())
    kill_part(controller, before["name"], part)
    path = f"/v1/backends/{before['name']}"
    wait_until(lambda: controller.api("GET", path)["restarts"] > 0, "the controller does not restart it")
    after = controller.await_running(before["name"])
    assert after["restarts"] == 1
    assert (after["url"], after["token"]) == (before["url"], before["token"])
    with closing(caller(after)) as call:
        assert call("eval", {"expression": "1 + 1"}) == {"value": 2}
    controller.delete_backend(before["name"])


def kill_part(controller: Controller, name: str, part: str) -> None:
    """Remove the container of a part, or kill its process."""
    if controller.engine == "docker":
        (container,) = list_containers(f"dev.venvd.name={name}", f"dev.venvd.role={part}")
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)
        return
    states = [json.loads(path.read_text()) for path in (controller.home / "backends").glob("*/state.json")]
    state = next(state for state in states if name in json.dumps(state))
    os.kill(state[part]["pid"], signal.SIGKILL)
