"""The Docker Engine becomes unavailable: the errors are clear, nothing is lost, and work resumes when it is back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness.controller import Controller, caller, running_controller, unique
from harness.gate import UnixGate
from harness.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.network]
MINOR = f"3.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnixGate]:
    """The engine's socket behind a gate."""
    gate = UnixGate(Path("/var/run/docker.sock"), tmp_path_factory.mktemp("gate") / "docker.sock")
    yield gate
    gate.shut()


@pytest.fixture(scope="module")
def controller(gate: UnixGate) -> Iterator[Controller]:
    with running_controller("docker", DOCKER_HOST=f"unix://{gate.path}") as controller:
        yield controller


def await_status(controller: Controller, status: int) -> None:
    """Wait until `/readyz` answers with a status."""
    wait_until(lambda: controller.raw("GET", "/readyz")[0] == status, f"/readyz does not become {status}")


@pytest.mark.long
def test_an_engine_that_goes_and_comes_back(controller: Controller, gate: UnixGate) -> None:
    """Without the engine backends serve on and builds fail with the cause; afterwards nothing is lost."""
    controller.venv("bare", python=MINOR)
    backend = controller.backend("bare", name=unique("on"))
    with closing(caller(backend)) as call:
        call("eval", {"expression": "kept = 1"})
        gate.shut()
        await_status(controller, 503)
        assert "engine" in controller.raw("GET", "/readyz")[1]["detail"]
        assert call("eval", {"expression": "kept"}) == {"value": 1}
        change = controller.api("PUT", "/v1/venvs/late", {"python": MINOR, "requirements": ["six"]})
        ended = controller.wait(change["operation"])
        assert (ended["state"], ended["error"]["code"]) == ("failed", "unavailable")
        gate.open()
        await_status(controller, 200)
        assert call("eval", {"expression": "kept"}) == {"value": 1}
    again = controller.api("GET", f"/v1/backends/{backend['name']}")
    assert (again["state"], again["restarts"], again["startedAt"]) == ("running", 0, backend["startedAt"])
    assert controller.venv("late", python=MINOR, requirements=["six"])["state"] == "ready"
    controller.delete_backend(backend["name"])


@pytest.mark.long
def test_an_engine_that_goes_during_a_build(controller: Controller, gate: UnixGate) -> None:
    """A build that loses its engine fails with the cause, and the next build of the venv succeeds."""
    change = controller.api("PUT", "/v1/venvs/cut", {"python": MINOR, "requirements": ["numpy"]})
    key = change["operation"]["id"]
    controller.await_phase(key, "install")
    gate.shut()
    ended = controller.wait(key)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unavailable")
    gate.open()
    await_status(controller, 200)
    assert controller.venv("cut", python=MINOR, requirements=["numpy"])["state"] == "ready"
