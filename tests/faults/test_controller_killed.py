"""The controller dies at the worst moments; nothing is lost, leaked or done twice."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from harness.controller import Controller, caller, unique
from harness.ports import free_port

pytestmark = pytest.mark.network
MINOR = f"3.{sys.version_info.minor}"


def test_a_backend_is_adopted_with_its_state(controller: Controller) -> None:
    """After SIGKILL and a new start, the backend runs on with its session's state, under the same URL."""
    controller.venv("bare", python=MINOR)
    before = controller.backend("bare", name=unique("stays"))
    call = caller(before)
    call("eval", {"expression": "kept = 42"})
    controller.kill()
    assert call("eval", {"expression": "kept"}) == {"value": 42}
    controller.start()
    after = controller.until_running(before["name"])
    assert (after["url"], after["token"], after["restarts"]) == (before["url"], before["token"], 0)
    assert call("eval", {"expression": "kept"}) == {"value": 42}
    call.close()
    controller.api("DELETE", f"/v1/backends/{before['name']}")


def test_a_build_ends_once(controller: Controller) -> None:
    """A build that was running when the controller was killed is finished by the next one, and nothing is left over."""
    change = controller.api("PUT", "/v1/venvs/cut", {"python": MINOR, "requirements": ["numpy", "six"]})
    key = change["operation"]["id"]
    while controller.api("GET", f"/v1/operations/{key}")["state"] == "queued":
        time.sleep(0.02)
    time.sleep(0.5)
    controller.kill()
    controller.start()
    end = time.monotonic() + 180
    while controller.api("GET", "/v1/venvs/cut")["state"] not in {"ready", "failed"} and time.monotonic() < end:
        time.sleep(0.2)
    assert controller.api("GET", "/v1/venvs/cut")["state"] == "ready"
    operations = controller.api("GET", "/v1/operations")["items"]
    assert [item["state"] for item in operations if item["target"] == "cut"].count("succeeded") == 1
    assert not [item for item in operations if item["state"] in {"queued", "running"}]
    if controller.engine == "docker":
        assert leftovers(controller) == []


def leftovers(controller: Controller) -> list[str]:
    """Containers of the home that are no part of a backend."""
    home = (controller.home / "id").read_text().strip()
    listed = subprocess.run(
        ["docker", "ps", "-a", "--filter", f"label=dev.venvd.home={home}", "--format", "{{.Names}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_removed_part_comes_back(controller: Controller, part: str) -> None:
    """One of the two containers, or processes, taken away behind the controller's back: the backend returns."""
    controller.venv("bare", python=MINOR)
    backend = controller.backend("bare", name=unique("hit"), port=free_port())
    remove_part(controller, backend["name"], part)
    end = time.monotonic() + 60
    while controller.api("GET", f"/v1/backends/{backend['name']}")["restarts"] == 0 and time.monotonic() < end:
        time.sleep(0.1)
    again = controller.until_running(backend["name"])
    assert again["restarts"] == 1
    assert (again["url"], again["token"]) == (backend["url"], backend["token"])
    call = caller(again)
    assert call("eval", {"expression": "1 + 1"}) == {"value": 2}
    call.close()
    controller.api("DELETE", f"/v1/backends/{backend['name']}")


def remove_part(controller: Controller, name: str, part: str) -> None:
    """End one part for good, by its label or by its process ID."""
    if controller.engine == "docker":
        filters = [f"label=dev.venvd.name={name}", f"label=dev.venvd.role={part}"]
        command = ["docker", "ps", "-q", *(word for rule in filters for word in ("--filter", rule))]
        ids = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert len(ids) == 1
        subprocess.run(["docker", "rm", "-f", *ids], capture_output=True, check=True)
        return
    import json
    import os
    import signal

    states = [json.loads(path.read_text()) for path in (controller.home / "backends").glob("*/state.json")]
    mine = next(state for state in states if name in json.dumps(state))
    os.kill(mine[part]["pid"], signal.SIGKILL)
