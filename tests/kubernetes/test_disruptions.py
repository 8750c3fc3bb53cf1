"""Parts of the cluster stop for a while: backends serve on, work goes on, and nothing is left or made twice."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from harness.cluster_controller import PYTHON, ClusterController, prepared_on_cluster
from harness.cluster_faults import ClusterFaults
from harness.controller import caller, unique
from harness.kubernetes import run
from harness.waiting import wait_until

pytestmark = pytest.mark.disruptive
STOP_SECONDS = 60.0


@pytest.fixture(scope="module")
def controller(faults: ClusterFaults) -> Iterator[ClusterController]:
    with prepared_on_cluster("disrupted") as prepared:
        prepared.start().venv("bare", python=PYTHON)
        yield prepared


@pytest.fixture
def backend(controller: ClusterController) -> Iterator[dict[str, Any]]:
    """A backend that runs, with a value in its session; after the test nothing of it is left."""
    started = controller.backend("bare", name=unique("stays"))
    with closing(caller(started)) as call:
        call("eval", {"expression": "kept = 1"})
    yield started
    controller.delete_backend(started["name"])
    controller.await_objects()


def check_kept(controller: ClusterController, backend: dict[str, Any]) -> None:
    """Check that a backend runs on, with its session."""
    with closing(caller(backend)) as call:
        assert call("eval", {"expression": "kept"}) == {"value": 1}
    assert controller.api("GET", f"/v1/backends/{backend['name']}")["restarts"] == 0


def is_ready(controller: ClusterController) -> bool:
    with contextlib.suppress(OSError):
        return controller.raw("GET", "/readyz")[0] == http.client.OK
    return False


def test_an_api_server_that_stops_for_a_minute(
    controller: ClusterController, backend: dict[str, Any], faults: ClusterFaults
) -> None:
    """Backends serve on, a build goes on, a start fails with the cause, a removal is made up for; nothing is left."""
    removed = controller.backend("bare", name=unique("removed"))
    built = controller.api("PUT", "/v1/venvs/slow", {"python": PYTHON, "requirements": ["numpy"]})["operation"]
    controller.await_phase(built["id"], "install")
    with faults.stopped("apiserver"):
        end = time.monotonic() + STOP_SECONDS
        controller.api("DELETE", f"/v1/backends/{removed['name']}")
        name = unique("late")
        started = controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
        wait_until(lambda: not is_ready(controller), "the controller does not tell of the absence")
        check_kept(controller, backend)
        wait_until(lambda: time.monotonic() > end, "the minute does not end")
    wait_until(lambda: is_ready(controller), controller.read_log)
    assert controller.wait(built)["state"] == "succeeded"
    ended = controller.wait(started["operation"])
    if ended["state"] == "failed":
        assert "does not answer" in ended["error"]["detail"]
    controller.delete_backend(name)
    check_kept(controller, backend)
    controller.await_objects(backend["name"])


def find_condition() -> str:
    path = 'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}'
    return run("kubectl", "get", "nodes", "--output", path)


def is_reached(address: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, 5678), 2):
        return True
    return False


def test_a_node_that_is_not_ready(
    controller: ClusterController, backend: dict[str, Any], faults: ClusterFaults
) -> None:
    """On a silent node backends serve on; a start waits and says why, a removal ends; later all comes to its end."""
    removed = controller.backend("bare", name=unique("removed"))
    [pod] = controller.list_pods(removed["name"])
    name = unique("waits")
    with faults.stopped("kubelet"):
        wait_until(lambda: find_condition() == "Unknown", "the node stays ready")
        started = controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
        path = f"/v1/operations/{started['operation']['id']}/events"
        controller.delete_backend(removed["name"])
        assert not controller.list_pods(removed["name"])
        wait_until(lambda: "no node takes the pod" in read_events(controller, path), "the start says no reason")
        check_kept(controller, backend)
    assert controller.wait(started["operation"])["state"] == "succeeded"
    controller.check_answers(name)
    wait_until(lambda: not is_reached(pod["status"]["podIP"]), "the removed backend runs on")
    check_kept(controller, backend)
    controller.delete_backend(name)
    controller.await_objects(backend["name"])


def read_events(controller: ClusterController, path: str) -> str:
    """Read what an operation has told so far."""
    connection = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=2)
    lines = b""
    with contextlib.suppress(TimeoutError), closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {controller.token}"})
        response = connection.getresponse()
        while part := response.read1(65536):
            lines += part
    return lines.decode()
