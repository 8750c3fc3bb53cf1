"""The router in front of gRPC backends: with the SDK, and with plain stubs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.router import METRICS_TOKEN, NAMES, TOKEN, Replicas, Router, Routers
from harness.waiting import wait_until

import venvd
from venvd.errors import Conflict, Unauthenticated, Unavailable, UserError
from venvd_proto.v1 import python_service_pb2 as pb
from venvd_proto.v1 import session_service_pb2 as spb
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub
from venvd_proto.v1.session_service_pb2_grpc import SessionServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.network]

METADATA = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture(scope="module")
def router(rpc_replicas: Replicas, routers: Routers) -> Router:
    return routers.start("rpc", rpc_replicas.entries)


@pytest.fixture
def channel(router: Router) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{router.port}") as channel:
        yield channel


def test_every_kind_of_call_reaches_its_session(backend: venvd.Backend, session: venvd.Session) -> None:
    """By name and by ID: calls, streams, proxies, files, arrays and background calls."""
    by_name = backend.session(session.name.partition("-")[2])
    session.exec("x = [1]")
    assert by_name.eval("x") == [1]
    assert [event.kind for event in by_name.exec_stream("print(x)")] == ["stdout", "result"]
    assert len(session.wrap([1, 2])) == 2
    session.files.put("a.txt", b"text" * 1_000_000)
    assert by_name.files.get("a.txt") == b"text" * 1_000_000
    array = session.put_array(np.arange(400_000))
    assert session.get_array(array).sum() == np.arange(400_000).sum()
    assert session.background.eval("x * 2").result() == [1, 1]
    assert backend.sessions.get(session.name).id == session.name
    with pytest.raises(Conflict):
        backend.sessions.create(session.name.partition("-")[2])
    with pytest.raises(UserError, match="division"):
        session.eval("1 / 0")


def test_an_event_loop_is_served_as_well(router: Router) -> None:
    """The same for the asynchronous client, with many calls at a time."""

    async def work() -> list[object]:
        async with venvd.connect_async(router.url, TOKEN) as backend:
            sessions = [await backend.sessions.create(f"many-{number}") for number in range(4)]
            calls = (each.eval(f"{n} + {m}") for n, each in enumerate(sessions) for m in range(5))
            values = await asyncio.gather(*calls)
            for each in sessions:
                await each.delete()
            return values

    assert asyncio.run(work()) == [n + m for n in range(4) for m in range(5)]


def test_lists_have_what_all_replicas_have(
    backend: venvd.Backend, channel: grpc.Channel, session: venvd.Session
) -> None:
    """Sessions of both replicas are in one list, on the Session stream and by the method."""
    wanted = {session.name, "default", "1-default"}
    assert wanted <= {each.id for each in backend.sessions.list()}
    listed = SessionServiceStub(channel).ListSessions(spb.ListSessionsRequest(), metadata=METADATA)
    assert wanted <= {each.id for each in listed.sessions}


def test_new_sessions_are_spread(backend: venvd.Backend, channel: grpc.Channel) -> None:
    """Each goes to the replica with the fewest sessions, as far as its last report says."""
    stub = SessionServiceStub(channel)
    names = [backend.sessions.create().name for _ in range(4)]
    names += [
        stub.CreateSession(spb.CreateSessionRequest(), metadata=METADATA, timeout=60).session.id for _ in range(2)
    ]
    numbers = [name.partition("-")[0] for name in names]
    for name in names:
        stub.DeleteSession(spb.DeleteSessionRequest(id=name), metadata=METADATA)
    assert min(numbers.count("0"), numbers.count("1")) >= 2


def test_one_stream_has_calls_of_both_replicas(channel: grpc.Channel) -> None:
    """Replies have the IDs of their requests, wherever they come from."""
    requests = [
        pb.SessionRequest(id=1, command="eval", payload_json='{"expression": "1"}'),
        pb.SessionRequest(id=2, command="eval", payload_json='{"expression": "2"}', session="1-default"),
        pb.SessionRequest(id=3, command="session.list"),
        pb.SessionRequest(id=4, command="cancel", payload_json='{"id": "unknown"}'),
    ]
    replies = {each.id: each for each in PythonServiceStub(channel).Session(iter(requests), metadata=METADATA)}
    assert [json.loads(replies[number].result_json)["value"] for number in (1, 2)] == [1, 2]
    assert {each["id"] for each in json.loads(replies[3].result_json)["sessions"]} >= {"default", "1-default"}
    assert replies[4].error.code == "not_found"


def test_methods_reach_the_session_of_their_metadata(channel: grpc.Channel, session: venvd.Session) -> None:
    """Single messages, streams, background calls and cancellation of plain clients."""
    stub = PythonServiceStub(channel)
    metadata = (*METADATA, ("x-venvd-session", session.name))
    session.exec("own = 5")
    assert stub.Evaluate(pb.EvaluateRequest(expression="own"), metadata=metadata).value_json == "5"
    events = list(stub.Execute(pb.ExecuteRequest(code="print(own)"), metadata=metadata))
    assert events[0].stdout == "5\n"
    request = pb.StartCallRequest(command="eval", payload_json='{"expression": "own"}', session=session.name)
    started = stub.StartCall(request, metadata=METADATA)
    info = stub.GetCall(pb.GetCallRequest(id=started.id, wait=30), metadata=METADATA)
    assert info.state == "succeeded"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Evaluate(pb.EvaluateRequest(expression="1 / 0"), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    name = f"chosen-{session.name}"  # replicas remember the names of ended calls
    named = (*metadata, ("x-venvd-call", name))
    running = stub.Evaluate.future(pb.EvaluateRequest(expression="__import__('time').sleep(600)"), metadata=named)
    wait_until(lambda: _cancel(stub, name), "no replica knows the call")
    assert running.code() is grpc.StatusCode.CANCELLED


def _cancel(stub: PythonServiceStub, name: str) -> bool:
    try:
        return bool(stub.CancelCall(pb.CancelCallRequest(id=name), metadata=METADATA).success)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise


def test_a_client_that_cancels_ends_its_call(
    backend: venvd.Backend, channel: grpc.Channel, session: venvd.Session
) -> None:
    """The session is free for others at once."""
    metadata = (*METADATA, ("x-venvd-session", session.name))
    code = pb.EvaluateRequest(expression="__import__('time').sleep(600)")
    running = PythonServiceStub(channel).Evaluate.future(code, metadata=metadata)
    wait_until(lambda: backend.sessions.get(session.name).state == "busy", "the call does not begin")
    running.cancel()
    assert session.eval("1 + 1", timeout=60) == 2


def test_clients_never_see_that_a_session_moved(rpc_replicas: Replicas, routers: Routers) -> None:
    """The router follows a replica whose table is newer, on streams and in methods."""
    router = routers.start("rpc", rpc_replicas.entries)
    router.write(rpc_replicas.entries, names=1)
    with venvd.connect(router.url, TOKEN) as backend, grpc.insecure_channel(f"127.0.0.1:{router.port}") as channel:
        sessions = [backend.sessions.create(name) for name in NAMES]
        assert {each.name[0] for each in sessions} == {"0", "1"}
        stub = PythonServiceStub(channel)
        for name in NAMES:
            assert backend.session(name).eval("1 + 1") == 2
            metadata = (*METADATA, ("x-venvd-session", name))
            assert stub.Evaluate(pb.EvaluateRequest(expression="3"), metadata=metadata).value_json == "3"
            assert len(list(stub.Execute(pb.ExecuteRequest(code="print(1)"), metadata=metadata))) == 2
        for each in sessions:
            each.delete()
    assert router.read_metric("venvd_router_moves_total") >= 3


def test_a_replica_that_is_gone_is_named(rpc_replicas: Replicas, routers: Routers) -> None:
    """A call for it is refused; those for others are served."""
    router = routers.start("rpc", [rpc_replicas.entries[0], {"url": "grpc://127.0.0.1:9"}])
    with venvd.connect(router.url, TOKEN) as backend:
        with pytest.raises(Unavailable, match="replica 1"):
            backend.session("1-default").eval("1")
        assert backend.eval("1") == 1
        with backend.sessions.create() as session:
            assert session.name.startswith("0-")


def test_calls_wait_for_an_address(rpc_replicas: Replicas, routers: Routers) -> None:
    """While no replica has one, as when they are started for this very call."""
    router = routers.start("rpc", [{"url": None}])
    with venvd.connect(router.url, TOKEN) as backend, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.eval, "2")
        wait_until(lambda: router.ask("GET", "/load", token=METRICS_TOKEN).json["waiting"] == 1, "it does not wait")
        router.write(rpc_replicas.entries)
        assert waiting.result() == 2
    assert router.ask("GET", "/load", token=METRICS_TOKEN).json["calls"] == 0


def test_tokens_are_checked_here(router: Router, channel: grpc.Channel) -> None:
    """Health needs none, other methods do; the HTTP port has the probes."""
    with venvd.connect(router.url, "wrong") as backend, pytest.raises(Unauthenticated):
        backend.eval("1")
    assert PythonServiceStub(channel).Health(pb.HealthRequest()).status == "ok"
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="venvd.v1.PythonService"))
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    assert router.ask("GET", "/readyz", token=None).status == 200


def test_old_calls_over_http_pass(router: Router, session: venvd.Session) -> None:
    """`POST /rpc/PythonService/<Method>` reaches the session that its body names."""
    session.exec("own = 5")
    body = {"Expression": "own", "Session": session.name}
    assert router.ask("POST", "/rpc/PythonService/Evaluate", body).json["Value"] == 5
    assert router.ask("POST", "/rpc/PythonService/Health", {}, token=None).status == 200
    assert router.ask("GET", "/v1/sessions").status == 404
