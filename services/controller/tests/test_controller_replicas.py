"""Backends with replicas: their launches, state, addresses and end."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from harness.ports import free_port

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unimplemented
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.replicas import check_replicas
from venvd_engines.engine import PartState

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def testbed(shared_testbed: Any) -> Any:
    shared_testbed.controller.venvs.put("many", VenvSpec(python="3.13"))
    shared_testbed.engine.user_ids = range(5000, 5020)
    return shared_testbed


def start(testbed: Any, name: str, replicas: int = 3, **fields: Any) -> Any:
    spec = BackendSpec("http", venv="many", name=name, replicas=replicas, **fields)
    _, operation = testbed.controller.backends.start(spec)
    return testbed.wait(operation)


def find(testbed: Any, name: str, number: int) -> Any:
    return testbed.engine.find_backend(name if number == 0 else f"{name}--{number}")


def test_replicas_are_launches_of_one_backend(testbed: Any) -> None:
    """Each has a launch and an address of its own; their servers know the name, their number and all addresses."""
    assert start(testbed, "three").state == "succeeded"
    backend = testbed.controller.backends.get("three")
    assert (backend.state, backend.url) == ("running", backend.replicas[0].url)
    assert [(each.number, each.state) for each in backend.replicas] == [(n, "running") for n in range(3)]
    urls = [each.url for each in backend.replicas]
    assert len(set(urls)) == 3
    for number in range(3):
        launched = find(testbed, "three", number)
        env = launched.launch.server_env
        assert (env["VENVD_NAME"], env.get("VENVD_REPLICA", "0")) == ("three", str(number))
        keys = json.loads(launched.keys)
        assert (keys["siblings"]["names"], [each["url"] for each in keys["siblings"]["replicas"]]) == (3, urls)
        assert {each["name"] for each in keys["tokens"]} == {"backend:three"}
    tokens = {find(testbed, "three", number).launch.server_env["VENVD_TOKEN_SHA256"] for number in range(3)}
    assert len(tokens) == 1
    assert [each["name"] for each in testbed.client.get("/v1/backends").json()["items"] if "three" in each["name"]] == [
        "three"
    ]
    targets = testbed.client.get("/v1/sd/prometheus").json()
    labels = [each["labels"] for each in targets if each["labels"]["backend"] == "three"]
    assert [(each["replica"], each["__param_replica"]) for each in labels] == [(str(n), str(n)) for n in range(3)]


def test_a_port_asked_for_is_that_of_replica_0(testbed: Any) -> None:
    """The others, which start at the same time, leave it alone."""
    port = free_port()
    assert start(testbed, "ported", port=port).state == "succeeded"
    assert testbed.controller.backends.get("ported").url.endswith(f":{port}")
    assert all(port in find(testbed, "ported", number).launch.reserved for number in (1, 2))


def test_a_replica_that_ends_is_replaced_alone(testbed: Any, wait_until: Any) -> None:
    """The backend is unhealthy until it runs again; the other launches stay."""
    assert start(testbed, "harmed").state == "succeeded"
    before = [find(testbed, "harmed", number).launch.id for number in range(3)]
    gate = testbed.engine.gates["start"] = threading.Event()
    find(testbed, "harmed", 1).parts["worker"] = PartState("exited", "killed")
    get = testbed.controller.backends.get
    wait_until(lambda: get("harmed").state == "unhealthy")
    gate.set()
    wait_until(lambda: get("harmed").state == "running")
    del testbed.engine.gates["start"]
    after = [find(testbed, "harmed", number).launch.id for number in range(3)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert [each.restarts for each in get("harmed").replicas] == [0, 1, 0]


def test_a_start_fails_with_its_replica(testbed: Any) -> None:
    """The operation names the replica and its error."""
    with pytest.MonkeyPatch.context() as patch:
        listen = testbed.engine._listen

        def refuse(launch: Any) -> Any:
            if launch.name == "broken--2":
                raise Unavailable("no room")
            return listen(launch)

        patch.setattr(testbed.engine, "_listen", refuse)
        operation = start(testbed, "broken")
    assert (operation.state, operation.error["detail"]) == ("failed", "replica 2 is failed: no room")
    backend = testbed.controller.backends.get("broken")
    assert (backend.state, backend.replicas[2].error) == ("unhealthy", "no room")


def test_a_rotated_token_reaches_all_replicas(testbed: Any) -> None:
    """Each server takes the new token."""
    start(testbed, "turned", 2)
    testbed.controller.backends.rotate_token("turned", 60)
    tokens = [json.loads(find(testbed, "turned", number).keys)["tokens"] for number in range(2)]
    assert len(tokens[0]) == 2
    assert tokens[0] == tokens[1]


def test_the_end_of_a_backend_is_that_of_its_replicas(testbed: Any) -> None:
    """When the row of the backend is gone, no launch is left."""
    start(testbed, "ended")
    assert testbed.client.delete("/v1/backends/ended").status_code == 204
    assert not [each for each in testbed.engine.launches.values() if each.launch.name.startswith("ended")]
    assert start(testbed, "ended", 2).state == "succeeded"


def test_fewer_replicas_in_the_manifest_end_the_others(testbed: Any, wait_until: Any) -> None:
    """A changed specification restarts those that stay."""
    start(testbed, "shrunk")
    backends = testbed.controller.backends
    backends.declare(BackendSpec("http", venv="many", name="shrunk", replicas=2))
    wait_until(lambda: [each.state for each in backends.get("shrunk").replicas] == ["running"] * 2)
    names = {each.launch.name for each in testbed.engine.launches.values() if each.launch.name.startswith("shrunk")}
    assert names == {"shrunk", "shrunk--1"}
    assert len(json.loads(find(testbed, "shrunk", 1).keys)["siblings"]["replicas"]) == 2


def test_a_replica_has_no_name_of_its_own(testbed: Any) -> None:
    """The API knows it as a number of its backend, for the log and the metrics as well."""
    start(testbed, "named", 2)
    answer = testbed.client.delete("/v1/backends/named--1")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        '"named--1" is replica 1 of the backend "named": name the backend',
    )
    find(testbed, "named", 1).log("of the other")
    texts = [each["text"] for each in testbed.client.get("/v1/backends/named/logs?replica=1").json()["items"]]
    assert "of the other" in texts
    assert testbed.client.get("/v1/backends/named/metrics?replica=1").status_code == 200
    with pytest.raises(NotFound, match="has no replica 2; it has 2, counted from 0"):
        testbed.controller.backends.find_replica("named", 2)


def test_a_name_that_a_replica_would_have_must_be_free(testbed: Any) -> None:
    """The start says which name is taken, and adds nothing."""
    start(testbed, "taken--1", 1)
    with pytest.raises(Conflict, match='replica 1 would be "taken--1"'):
        start(testbed, "taken", 2)
    with pytest.raises(NotFound):
        testbed.controller.backends.get("taken")


def test_replicas_are_checked() -> None:
    """Their number has bounds, their names have room, and Kubernetes refuses them."""
    with pytest.raises(InvalidRequest, match="replicas: takes 1 to 32, not 0"):
        check_replicas(BackendSpec("http", replicas=0), "local")
    with pytest.raises(InvalidRequest, match="has at most 59 characters"):
        check_replicas(BackendSpec("http", name="n" * 60, replicas=2), "local")
    with pytest.raises(Unimplemented, match="start several backends"):
        check_replicas(BackendSpec("http", replicas=2), "kubernetes")
    check_replicas(BackendSpec("http", name="n" * 60), "kubernetes")
