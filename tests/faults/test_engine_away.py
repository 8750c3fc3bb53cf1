"""The Docker Engine goes away mid-way: a clear error, nothing lost, and all goes on when it is back."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.controller import Controller, caller, running_controller, unique

pytestmark = [pytest.mark.docker, pytest.mark.network]
MINOR = f"3.{sys.version_info.minor}"


class Gate:
    """A Unix socket in front of the engine's own, which can be shut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                connection.close()
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            self._connections += [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "docker.sock")
    made.open()
    yield made
    made.shut()


@pytest.fixture
def controller(gate: Gate) -> Iterator[Controller]:
    with running_controller("docker", DOCKER_HOST=f"unix://{gate.path}") as made:
        yield made


def until(controller: Controller, status: int) -> None:
    end = time.monotonic() + 60
    while controller.raw("GET", "/readyz")[0] != status and time.monotonic() < end:
        time.sleep(0.2)
    assert controller.raw("GET", "/readyz")[0] == status


def test_an_engine_that_goes_and_comes_back(controller: Controller, gate: Gate) -> None:
    """While the engine is away backends serve on and new work fails with its cause; afterwards everything is there."""
    controller.venv("bare", python=MINOR)
    backend = controller.backend("bare", name=unique("on"))
    call = caller(backend)
    call("eval", {"expression": "kept = 1"})
    gate.shut()
    until(controller, 503)
    assert "engine" in controller.raw("GET", "/readyz")[1]["detail"]
    assert call("eval", {"expression": "kept"}) == {"value": 1}
    failed = controller.wait(
        controller.api("PUT", "/v1/venvs/late", {"python": MINOR, "requirements": ["six"]})["operation"]
    )
    assert (failed["state"], failed["error"]["code"]) == ("failed", "unavailable")
    gate.open()
    until(controller, 200)
    assert call("eval", {"expression": "kept"}) == {"value": 1}
    call.close()
    again = controller.api("GET", f"/v1/backends/{backend['name']}")
    assert (again["state"], again["restarts"], again["startedAt"]) == ("running", 0, backend["startedAt"])
    assert controller.venv("late", python=MINOR, requirements=["six"])["state"] == "ready"
    controller.api("DELETE", f"/v1/backends/{backend['name']}")


def test_an_engine_that_goes_during_a_build(controller: Controller, gate: Gate) -> None:
    """A build that loses its engine fails with the cause, and the next one leaves nothing of it."""
    change = controller.api("PUT", "/v1/venvs/cut", {"python": MINOR, "requirements": ["numpy"]})
    key = change["operation"]["id"]
    while "install" not in [phase["name"] for phase in controller.api("GET", f"/v1/operations/{key}")["phases"]]:
        time.sleep(0.05)
    gate.shut()
    done = controller.wait(key)
    assert (done["state"], done["error"]["code"]) == ("failed", "unavailable")
    gate.open()
    until(controller, 200)
    assert controller.venv("cut", python=MINOR, requirements=["numpy"])["state"] == "ready"
