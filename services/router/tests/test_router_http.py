"""The router in front of HTTP backends: with the SDK, and with plain requests."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness.router import METRICS_TOKEN, NAMES, TOKEN, Replicas, Router, Routers, write_keys
from harness.waiting import wait_until

import venvd
from venvd.errors import Conflict, NotFound

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def router(http_replicas: Replicas, routers: Routers) -> Router:
    return routers.start("http", http_replicas.entries)


def test_every_kind_of_call_reaches_its_session(backend: venvd.Backend, session: venvd.Session) -> None:
    """By name and by ID: calls, streams, proxies, files, arrays and background calls."""
    by_name = backend.session(session.name.partition("-")[2])
    session.exec("x = [1]")
    assert by_name.eval("x") == [1]
    assert [event.kind for event in by_name.exec_stream("print(x)")] == ["stdout", "result"]
    assert len(session.wrap([1, 2])) == 2
    session.files.put("a.txt", b"text" * 1_000_000)
    assert by_name.files.get("a.txt") == b"text" * 1_000_000
    assert session.background.eval("x * 2").result() == [1, 1]
    assert backend.sessions.get(session.name).id == session.name
    with pytest.raises(Conflict):
        backend.sessions.create(session.name.partition("-")[2])


def test_the_default_session_is_that_of_replica_0(backend: venvd.Backend, http_replicas: Replicas) -> None:
    """A call without a session reaches it."""
    backend.exec("routed = 1")
    with venvd.connect(http_replicas.running[0].url, TOKEN) as direct:
        assert direct.eval("routed") == 1


def test_an_event_loop_is_served_as_well(router: Router) -> None:
    """The same for the asynchronous client, with many calls at a time."""

    async def work() -> list[object]:
        async with venvd.connect_async(router.url, TOKEN) as backend:
            sessions = [await backend.sessions.create(f"many-{number}") for number in range(4)]
            values = await asyncio.gather(
                *(each.eval(f"{n} + {m}") for n, each in enumerate(sessions) for m in range(5))
            )
            for each in sessions:
                await each.delete()
            return values

    assert asyncio.run(work()) == [n + m for n in range(4) for m in range(5)]


@pytest.mark.parametrize("size", [10, 400_000])
def test_arrays_pass_both_ways(router: Router, session: venvd.Session, size: int) -> None:
    """Bodies that are kept, and those that are streamed."""
    data = io.BytesIO()
    np.save(data, np.arange(size, dtype="<f8"))
    stored = router.ask("PUT", "/api/array", data.getvalue(), X_Venvd_Session=session.name)
    assert stored.status == 200, stored.body
    handle = stored.json["handleId"]
    fetched = router.ask("GET", f"/api/array?handleId={handle}", X_Venvd_Session=session.name)
    assert fetched.body == data.getvalue()
    head = router.ask("HEAD", f"/api/array?handleId={handle}", X_Venvd_Session=session.name)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data.getvalue())))


def test_a_body_may_name_the_session(router: Router, session: venvd.Session) -> None:
    """A plain client writes it beside the fields of the command; also in a body that is larger than what is kept."""
    session.exec("own = 5")
    answer = router.ask("POST", "/api/eval", {"expression": "own", "session": session.name})
    assert answer.json["value"] == 5
    large = {"expression": "len(text)", "locals": {"text": "x" * 2_000_000}, "session": session.name}
    assert router.ask("POST", "/api/eval", large).json["value"] == 2_000_000
    started = router.ask(
        "POST", "/v1/calls", {"command": "eval", "payload": {"expression": "own"}, "session": session.name}
    )
    info = router.ask("GET", f"/v1/calls/{started.json['id']}?wait=30")
    assert info.json["result"]["value"] == 5


def test_a_chunked_body_passes(router: Router, session: venvd.Session) -> None:
    """A client that does not know the length of its file may send it in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
    parts = [b"part" * 100_000 for _ in range(5)]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    connection.request("PUT", f"/v1/sessions/{session.name}/files/c", iter(parts), headers, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert session.files.get("c") == b"".join(parts)


def test_lists_have_what_all_replicas_have(backend: venvd.Backend, session: venvd.Session) -> None:
    """Sessions of both replicas are in one list."""
    assert {session.name, "default", "1-default"} <= {each.id for each in backend.sessions.list()}


def test_handles_are_those_of_one_session(router: Router, session: venvd.Session) -> None:
    """A list of handles is that of the session in the head."""
    proxy = session.wrap([1])
    handles = router.ask("GET", "/v1/handles", X_Venvd_Session=session.name).json["handles"]
    assert [each["typeName"] for each in handles] == ["list"]
    assert len(proxy) == 1


def test_new_sessions_are_spread(backend: venvd.Backend) -> None:
    """Each goes to the replica with the fewest sessions, as far as its last report says."""
    sessions = [backend.sessions.create() for _ in range(6)]
    numbers = [each.name.partition("-")[0] for each in sessions]
    for each in sessions:
        each.delete()
    assert min(numbers.count("0"), numbers.count("1")) >= 2


def test_a_draining_replica_gets_no_new_sessions(http_replicas: Replicas, routers: Routers) -> None:
    """Sessions without a name go to the others."""
    first, second = http_replicas.entries
    router = routers.start("http", [{**first, "draining": True}, second])
    with venvd.connect(router.url, TOKEN) as backend:
        sessions = [backend.sessions.create() for _ in range(3)]
        assert {each.name[0] for each in sessions} == {"1"}
        for each in sessions:
            each.delete()


def test_a_new_session_looks_for_replicas_without_an_address(http_replicas: Replicas, routers: Routers) -> None:
    """One that has just got its address counts at once: its first session does not wait for the next look."""
    first, second = http_replicas.entries
    router = routers.start("http", [{"url": None}, second])
    for entry, number in (({"url": None}, "1"), (first, "0")):
        write_keys(router.keys, [entry, second])
        with venvd.connect(router.url, TOKEN) as backend, backend.sessions.create() as session:
            assert session.name.startswith(f"{number}-")


def test_any_replica_may_know_a_call_by_its_name(router: Router, session: venvd.Session) -> None:
    """A client cancels its call by the name that it chose, without a word of the session."""
    with ThreadPoolExecutor(1) as pool:
        body = {"code": "import time\ntime.sleep(100)", "session": session.name}
        name = f"chosen-{session.name}"  # replicas remember the names of ended calls
        running = pool.submit(router.ask, "POST", "/api/exec", body, X_Venvd_Call=name)
        wait_until(lambda: router.ask("DELETE", f"/v1/calls/{name}").status == 200, "no replica knows the call")
        assert running.result().status == 499
    assert router.ask("DELETE", "/v1/calls/unknown").status == 404


def test_events_come_as_they_happen(router: Router, session: venvd.Session) -> None:
    """The first event reaches the client while the code runs."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream", "X-Venvd-Session": session.name}
    code = "import time, os\nprint('first', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)"
    connection.request("POST", "/api/exec", json.dumps({"code": code}), headers)
    response = connection.getresponse()
    assert b"stdout" in response.readline()
    session.files.put("go", b"")
    assert b"event: done" in response.read()
    connection.close()


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_goes_away_ends_its_call(router: Router, session: venvd.Session, accept: str) -> None:
    """The session is free for others at once."""
    code = json.dumps({"code": "print('begun', flush=True)\nimport time\ntime.sleep(600)"}).encode()
    lines = [
        *("POST /api/exec HTTP/1.1", "Host: test", f"Authorization: Bearer {TOKEN}", f"Accept: {accept}"),
        *(f"X-Venvd-Session: {session.name}", f"Content-Length: {len(code)}", "", ""),
    ]
    with socket.create_connection(("127.0.0.1", router.port)) as client:
        client.sendall("\r\n".join(lines).encode() + code)
        path = f"/v1/sessions/{session.name}"
        wait_until(lambda: router.ask("GET", path).json["state"] == "busy", "the call does not begin")
    assert session.eval("1 + 1", timeout=60) == 2


def test_clients_never_see_that_a_session_moved(http_replicas: Replicas, routers: Routers) -> None:
    """The router follows a replica whose table is newer; a body that it does not keep is to be sent again."""
    router = routers.start("http", http_replicas.entries)
    router.write(http_replicas.entries, names=1)
    with venvd.connect(router.url, TOKEN) as backend:
        sessions = [backend.sessions.create(name) for name in NAMES]
        assert {each.name[0] for each in sessions} == {"0", "1"}
        assert [backend.session(name).eval("1 + 1") for name in NAMES] == [2] * len(NAMES)
        moved = next(name for name, each in zip(NAMES, sessions, strict=True) if each.name[0] == "1")
        refused = router.ask("PUT", f"/v1/sessions/{moved}/files/large", b"x" * 2_000_000)
        assert (refused.status, "send the request again" in refused.json["detail"]) == (503, True)
        for each in sessions:
            each.delete()
    assert router.read_metric("venvd_router_moves_total") >= 2


def test_a_replica_that_is_gone_is_named(http_replicas: Replicas, routers: Routers) -> None:
    """The router refuses a request for it with 503, serves those for others, and lists what is there."""
    gone = {"url": "http://127.0.0.1:9"}
    router = routers.start("http", [http_replicas.entries[0], gone])
    refused = router.ask("POST", "/api/eval", {"expression": "1", "session": "1-default"})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert "replica 1 does not answer" in refused.json["detail"]
    assert router.ask("POST", "/api/eval", {"expression": "1"}).status == 200
    assert {each["id"] for each in router.ask("GET", "/v1/sessions").json["sessions"]} >= {"default"}
    with venvd.connect(router.url, TOKEN) as backend, backend.sessions.create() as session:
        assert session.name.startswith("0-")
    assert router.ask("DELETE", "/v1/calls/unknown").status == 503


def test_requests_wait_for_an_address(http_replicas: Replicas, routers: Routers) -> None:
    """While no replica has one, as when they are started for this very request."""
    router = routers.start("http", [{"url": None}])
    assert router.ask("GET", "/readyz", token=None).status == 503
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(router.ask, "POST", "/api/eval", {"expression": "2"})
        wait_until(lambda: router.ask("GET", "/load", token=METRICS_TOKEN).json["waiting"] == 1, "it does not wait")
        router.write(http_replicas.entries)
        assert waiting.result().json["value"] == 2
    load = router.ask("GET", "/load", token=METRICS_TOKEN).json
    assert (load["calls"], load["waiting"]) == (0, 0)
    assert load["idleSeconds"] > 0
    assert router.ask("GET", "/readyz", token=None).status == 200


def test_few_requests_wait_and_not_for_ever(routers: Routers) -> None:
    """Further ones are refused at once, and a waiting one when its time is over."""
    router = routers.start("http", [{"url": None}], {"VENVD_ADDRESS_TIMEOUT": "2", "VENVD_MAX_WAITING": "1"})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(router.ask, "POST", "/api/eval", {"expression": "2"})
        wait_until(lambda: router.ask("GET", "/load", token=METRICS_TOKEN).json["waiting"] == 1, "it does not wait")
        assert "requests wait" in router.ask("GET", "/v1/sessions").json["detail"]
        assert waiting.result().status == 503


def test_tokens_are_checked_here(router: Router) -> None:
    """A wrong one reaches no replica; probes need none; metrics and load take their own."""
    before = router.read_metric('venvd_router_requests_total{outcome="401",replica="0"}')
    assert router.ask("POST", "/api/eval", {"expression": "1"}, token="wrong").status == 401
    assert router.ask("POST", "/api/eval", {"expression": "1"}, token=None).status == 401
    assert router.ask("POST", "/api/eval", {"expression": "1"}, token=METRICS_TOKEN).status == 403
    assert router.read_metric('venvd_router_requests_total{outcome="401",replica="0"}') == before
    for path in ("/livez", "/health", "/readyz"):
        assert router.ask("GET", path, token=None).status == 200
    assert router.ask("GET", "/metrics", token=None).status == 401
    assert router.ask("GET", "/load", token=TOKEN).status == 403


def test_answers_pass_as_they_are(router: Router, session: venvd.Session) -> None:
    """Errors of replicas have their problem details, and the documentation is that of the replicas."""
    answer = router.ask("POST", "/api/eval", {"expression": "1 / 0", "session": session.name})
    assert (answer.status, answer.json["errorType"]) == (422, "ZeroDivisionError")
    assert answer.headers["content-type"] == "application/problem+json"
    assert router.ask("GET", "/openapi.json", token=None).json["info"]["title"]
    assert router.ask("GET", "/nothing").status == 404
    with venvd.connect(router.url, TOKEN) as backend, pytest.raises(NotFound):
        backend.sessions.get("7-unknown")


def test_the_end_waits_for_running_calls(http_replicas: Replicas, routers: Routers) -> None:
    """A call that runs when the router is asked to stop is answered."""
    router = routers.start("http", http_replicas.entries, {"VENVD_GRACE": "60"})
    with venvd.connect(http_replicas.running[0].url, TOKEN) as direct, ThreadPoolExecutor(1) as pool:
        code = "import os, time\nwhile not os.path.exists('stop'): time.sleep(0.01)\n7"
        with direct.sessions.create() as session:
            running = pool.submit(router.ask, "POST", "/api/eval", {"expression": code, "session": session.name})
            wait_until(lambda: direct.sessions.get(session.name).state == "busy", "the call does not begin")
            router.process.terminate()
            session.files.put("stop", b"")
            assert running.result().json["value"] == 7
    assert router.process.wait(60) == 0
