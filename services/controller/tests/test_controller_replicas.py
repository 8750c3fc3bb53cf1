"""Backends with replicas: their launches, state, addresses and end."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from harness.certificates import make_authority, make_certificate
from harness.ports import free_port

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unimplemented, VenvdError
from venvd_contract.internal.messages import LoadReport
from venvd_contract.resources import BackendSpec, OperationInfo, VenvSpec
from venvd_controller import backend_start, probes, scaling
from venvd_controller.database.tables import VenvRow
from venvd_controller.replicas import check_replicas, is_routed
from venvd_engines.engine import Launch, LaunchRecord, PartState

from .replicated import find, list_launches, read_table, start  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def testbed(shared_testbed: Any) -> Any:
    shared_testbed.controller.venvs.put("many", VenvSpec(python="3.13"))
    shared_testbed.engine.user_ids = range(5000, 5100)
    return shared_testbed


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
    """Those that stay run on, and learn that the last one is gone."""
    start(testbed, "shrunk")
    before = list_launches(testbed, "shrunk")
    testbed.controller.backends.declare(BackendSpec("http", venv="many", name="shrunk", replicas=2))
    wait_until(lambda: len(read_table(testbed, "shrunk")["replicas"]) == 2)
    assert list_launches(testbed, "shrunk") == {name: before[name] for name in ("shrunk", "shrunk--1")}
    assert read_table(testbed, "shrunk")["names"] == 2


def test_replicas_are_added_while_the_others_run(testbed: Any) -> None:
    """The new ones take no names, since these live on the others; all servers learn their addresses."""
    start(testbed, "grown", 1)
    before = list_launches(testbed, "grown")
    answer = testbed.client.post("/v1/backends/grown/scale", json={"replicas": 3})
    assert answer.status_code == 202
    assert testbed.wait(OperationInfo(**answer.json()["operation"])).state == "succeeded"
    backend = testbed.controller.backends.get("grown")
    assert [each.state for each in backend.replicas] == ["running"] * 3
    assert list_launches(testbed, "grown")["grown"] == before["grown"]
    tables = [read_table(testbed, "grown", number) for number in range(3)]
    assert tables[0]["names"] == 1
    assert [each["url"] for each in tables[0]["replicas"]] == [each.url for each in backend.replicas]
    assert tables[0] == tables[1] == tables[2]


def test_a_replica_with_sessions_drains(testbed: Any, wait_until: Any) -> None:
    """It runs on, and all servers know that it takes no new ones; once its last session has ended, it goes."""
    start(testbed, "drained", 2)
    find(testbed, "drained", 1).load.sessions = 2
    testbed.controller.scaler.scale("drained", 1)
    assert [each["draining"] for each in read_table(testbed, "drained", 1)["replicas"]] == [False, True]
    backend = testbed.controller.backends.get("drained")
    assert (backend.state, [each.draining for each in backend.replicas]) == ("running", [False, True])
    testbed.controller.reconciler.run_turn()
    assert "drained--1" in list_launches(testbed, "drained")
    find(testbed, "drained", 1).load.sessions = 1
    wait_until(lambda: list(list_launches(testbed, "drained")) == ["drained"])
    wait_until(lambda: len(read_table(testbed, "drained")["replicas"]) == 1)


def test_a_drain_ends_after_its_timeout(testbed: Any, wait_until: Any) -> None:
    """The sessions that the replica still has end with it."""
    start(testbed, "hurried", 2, drainTimeout=0.0)
    find(testbed, "hurried", 1).load.sessions = 9
    testbed.controller.scaler.scale("hurried", 1)
    wait_until(lambda: list(list_launches(testbed, "hurried")) == ["hurried"])


def test_a_draining_replica_may_be_wanted_again(testbed: Any) -> None:
    """It keeps its sessions, and takes new ones again."""
    start(testbed, "regretted", 2)
    find(testbed, "regretted", 1).load.sessions = 2
    before = list_launches(testbed, "regretted")
    testbed.controller.scaler.scale("regretted", 1)
    testbed.controller.scaler.scale("regretted", 2)
    assert not any(each["draining"] for each in read_table(testbed, "regretted")["replicas"])
    testbed.controller.reconciler.run_turn()
    assert list_launches(testbed, "regretted") == before


def test_scaling_names_the_replica_that_does_not_start(testbed: Any) -> None:
    """The others run on."""
    start(testbed, "stuck", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed.engine, "_listen", Mock(side_effect=Unavailable("no room")))
        _, operation = testbed.controller.scaler.scale("stuck", 2)
        ended = testbed.wait(operation)
    assert (ended.state, ended.error["detail"]) == ("failed", "replica 1 is failed: no room")
    assert testbed.controller.backends.get("stuck").replicas[0].state == "running"


def test_scaling_waits_for_a_replica_that_starts_late(
    testbed: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    """A start that pulls an image for an hour does not end the operation before the replica runs."""
    start(testbed, "patient", 1)
    engine, go_on, hours, sleeps = testbed.engine, threading.Event(), [0.0], [0]

    def sleep(seconds: float) -> None:
        sleeps[0] += 1
        time.sleep(seconds)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + hours[0] * 3600, sleep=sleep)
    monkeypatch.setattr(backend_start, "time", clock)
    start_launch = engine.start

    def start_late(launch: Launch, progress: Any) -> LaunchRecord:
        go_on.wait(60)
        return start_launch(launch, progress)

    monkeypatch.setattr(engine, "start", start_late)
    _, operation = testbed.controller.scaler.scale("patient", 2)
    for _ in range(2):
        seen = sleeps[0]
        wait_until(lambda seen=seen: sleeps[0] > seen + 1)
        hours[0] += 1
    go_on.set()
    assert testbed.wait(operation).state == "succeeded"
    assert [each.state for each in testbed.controller.backends.get("patient").replicas] == ["running"] * 2


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [("fixed", 0, "takes 1 to 32, not 0"), ("loaded", 2, "load of the backend"), ("absent", 2, "no backend")],
)
def test_scaling_is_refused_with_the_reason(testbed: Any, name: str, count: int, message: str) -> None:
    """A wrong number, a backend that follows its load, and one that does not exist."""
    if name not in {each.name for each in testbed.controller.backends.list_all()} and name != "absent":
        start(testbed, name, 1, maxReplicas=2 if name == "loaded" else None)
    with pytest.raises(VenvdError, match=message):
        testbed.controller.scaler.scale(name, count)


def test_replicas_follow_the_sessions(testbed: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For more sessions than those of each replica there is another one, and for fewer there is one less."""
    monkeypatch.setattr(scaling, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(scaling, "_LOOK_SECONDS", 0.0)
    start(testbed, "busy", 1, maxReplicas=3, sessionsPerReplica=4)
    find(testbed, "busy", 0).load.sessions = 6  # five of clients
    wait_until(lambda: [each.state for each in testbed.controller.backends.get("busy").replicas] == ["running"] * 2)
    find(testbed, "busy", 0).load.sessions = 4
    wait_until(lambda: list(list_launches(testbed, "busy")) == ["busy"])


@pytest.mark.parametrize(
    ("loads", "fields", "number"),
    [
        ([LoadReport(1, 64)], {}, 1),
        ([LoadReport(49, 64)], {}, 1),
        ([LoadReport(50, 64)], {}, 2),
        ([LoadReport(65, 64), LoadReport(65, 64)], {}, 3),
        ([LoadReport(500, 64)], {}, 4),
        ([LoadReport(1, 64), LoadReport(1, 64)], {"minReplicas": 2}, 2),
        ([LoadReport(3, 64)], {"sessionsPerReplica": 1}, 2),
        ([LoadReport(1, 64, 1, 5)], {}, 2),
        ([LoadReport(1, 64, 1, 5), LoadReport(1, 64)], {}, 1),
    ],
)
def test_the_number_of_replicas_for_a_load(loads: list[LoadReport], fields: dict[str, int], number: int) -> None:
    """Enough for the sessions of clients within the bounds, and one more if calls wait on all of them."""
    spec = BackendSpec("http", maxReplicas=4, **fields)
    assert scaling.choose_number(spec, dict(enumerate(loads))) == number


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


def test_a_rollback_names_the_replica_that_ran_no_other_build(testbed: Any) -> None:
    """The request is refused, and nothing restarts."""
    start(testbed, "steady", 2)
    before = list_launches(testbed, "steady")
    answer = testbed.client.post("/v1/backends/steady/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert 'replica 0 of "steady" has run no other build of the venv "many"' in answer.json()["detail"]
    assert list_launches(testbed, "steady") == before


def test_a_name_that_a_replica_would_have_must_be_free(testbed: Any) -> None:
    """The start says which name is taken, and adds nothing."""
    start(testbed, "taken--1", 1)
    with pytest.raises(Conflict, match='replica 1 would be "taken--1"'):
        start(testbed, "taken", 2)
    with pytest.raises(NotFound):
        testbed.controller.backends.get("taken")


def test_replicas_are_checked(testbed: Any) -> None:
    """Their number has bounds, and their names have room."""
    with pytest.raises(InvalidRequest, match="replicas: takes 1 to 32, not 0"):
        check_replicas(BackendSpec("http", replicas=0), testbed.engine)
    with pytest.raises(InvalidRequest, match="has a name of at most 55 characters"):
        check_replicas(BackendSpec("http", name="n" * 56, replicas=2), testbed.engine)
    with pytest.raises(InvalidRequest, match="minReplicas: needs maxReplicas"):
        check_replicas(BackendSpec("http", minReplicas=2), testbed.engine)
    with pytest.raises(InvalidRequest, match="minReplicas: 3 is more than maxReplicas, 2"):
        check_replicas(BackendSpec("http", minReplicas=3, maxReplicas=2), testbed.engine)
    check_replicas(BackendSpec("http", name="n" * 60), testbed.engine)
    with pytest.raises(Unimplemented, match="idleStop: the engine memory has no routers"):
        check_replicas(BackendSpec("http", idleStop=60), testbed.engine)
    with pytest.raises(InvalidRequest, match="idleStop: a pipe backend has no router"):
        check_replicas(BackendSpec("pipe", idleStop=60), testbed.engine)


@pytest.fixture
def routing(testbed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine that runs routers."""
    monkeypatch.setattr(testbed.engine, "has_routers", True)
    return testbed


def test_a_router_has_the_address_of_its_backend(routing: Any) -> None:
    """It is a launch of its own with the port that was asked for, and knows all replicas."""
    port = free_port()
    assert start(routing, "routed", 2, port=port).state == "succeeded"
    backend = routing.controller.backends.get("routed")
    assert backend.url == f"http://127.0.0.1:{port}"
    assert [each.number for each in backend.replicas] == [0, 1]
    assert port not in {urlsplit(each.url).port for each in backend.replicas}
    router = find(routing, "routed", "router").launch
    assert (router.router, router.routed, router.address_name) == (True, False, "routed")
    assert (router.server_env["VENVD_TYPE"], router.manages_key, router.user_id) == ("http", None, None)
    first = find(routing, "routed", 0).launch
    assert (first.router, first.routed, first.address_name) == (False, True, "routed--0")
    assert (port in router.reserved, port in first.reserved) == (False, True)
    assert json.loads(find(routing, "routed", "router").keys)["siblings"] == read_table(routing, "routed")


def test_replicas_that_start_late(routing: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> None:
    """The router, and the first replica, wait as long as another replica is being started."""
    hours = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + hours[0] * 3600, sleep=time.sleep)
    monkeypatch.setattr(backend_start, "time", clock)
    engine, go_on, routers = routing.engine, threading.Event(), []
    start_launch, probe = engine.start, probes.probe_readiness
    probed: list[str] = []

    def start_late(launch: Launch, progress: Any) -> LaunchRecord:
        if launch.name == "late--1":
            go_on.wait(60)
        record = start_launch(launch, progress)
        if launch.router:
            routers.append(engine.launches[launch.id])
            routers[0].ready = False
        return record

    def note(record: LaunchRecord) -> Any:
        probed.append(record.launch_id)
        return probe(record)

    monkeypatch.setattr(engine, "start", start_late)
    monkeypatch.setattr(probes, "probe_readiness", note)
    operation = routing.controller.backends.start(BackendSpec("http", venv="many", name="late", replicas=2))[1]
    wait_until(lambda: routers and routing.controller.backends.get_row("late").state == "running")
    for _ in range(2):
        hours[0] += 1
        seen = probed.count(routers[0].launch.id)
        wait_until(lambda seen=seen: probed.count(routers[0].launch.id) > seen + 1)
    routers[0].ready = True
    go_on.set()
    assert routing.wait(operation).state == "succeeded"


def test_a_router_has_no_secrets(routing: Any) -> None:
    """Those of the backend are for its user code."""
    start(routing, "private", 2)
    answer = routing.client.put("/v1/backends/private/secrets/KEY", json={"value": "of user code", "env": "KEY"})
    assert answer.status_code == 200, answer.text
    routing.controller.key_files.update()
    assert b"of user code" in find(routing, "private", 1).secrets
    assert b"of user code" not in find(routing, "private", "router").secrets


def test_a_router_ends_with_its_backend(routing: Any) -> None:
    """No launch is left."""
    start(routing, "gone", 2)
    assert routing.client.delete("/v1/backends/gone").status_code == 204
    assert not list_launches(routing, "gone")


def test_a_router_that_ends_is_replaced(routing: Any, wait_until: Any) -> None:
    """The replicas run on."""
    start(routing, "cut", 2)
    before = list_launches(routing, "cut")
    find(routing, "cut", "router").parts["server"] = PartState("exited", "killed")
    wait_until(lambda: list_launches(routing, "cut").get("cut--router") not in {None, before["cut--router"]})
    wait_until(lambda: routing.controller.backends.get("cut").state == "running")
    after = list_launches(routing, "cut")
    assert [after[name] == before[name] for name in ("cut", "cut--1")] == [True, True]


def test_a_restart_puts_a_router_in_front_of_added_replicas(routing: Any) -> None:
    """Until then the backend keeps the address of replica 0."""
    start(routing, "later", 1)
    url = routing.controller.backends.get("later").url
    _, scaling_operation = routing.controller.scaler.scale("later", 2)
    routing.wait(scaling_operation)
    assert routing.controller.backends.get("later").url == url
    assert "later--router" not in list_launches(routing, "later")
    _, restarting = routing.controller.backends.restart("later")
    assert routing.wait(restarting).state == "succeeded"
    assert "later--router" in list_launches(routing, "later")
    assert read_table(routing, "later")["names"] == 2


@pytest.mark.needs("openssl")
def test_a_router_knows_the_certificates_of_its_servers(
    create_testbed: Any, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of gRPC servers too, whose probes pass without TLS."""
    monkeypatch.setattr(engine, "has_routers", True)
    make_authority(tmp_path)
    cert, key = make_certificate(tmp_path, "server")
    server = {"tlsCert": str(cert), "tlsKey": str(key)}
    with create_testbed(host_dirs=str(tmp_path)).started() as testbed:
        testbed.controller.venvs.put("many", VenvSpec(python="3.13"))
        spec = BackendSpec("rpc", venv="many", name="calls", replicas=2, server=server)
        assert testbed.wait(testbed.controller.backends.start(spec)[1]).state == "succeeded"
        replicas = json.loads(find(testbed, "calls", "router").keys)["siblings"]["replicas"]
        assert [each["certificate"] for each in replicas] == [cert.read_text().strip()] * 2


def test_a_backend_that_asks_for_certificates_has_no_router(routing: Any, tmp_path: Path) -> None:
    """A router has none to show. So such a backend cannot sleep either."""
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    venv = VenvRow(spec={"server": {"tlsClientCa": str(authority)}})
    assert not is_routed(BackendSpec("http", replicas=2), venv, routing.engine)
    assert is_routed(BackendSpec("http", replicas=2), None, routing.engine)
    with pytest.raises(InvalidRequest, match="tlsClientCa"):
        is_routed(BackendSpec("http", idleStop=60), venv, routing.engine)
