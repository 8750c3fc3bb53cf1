"""Replicas over each transport: the servers say where a session lives, and the SDK goes there."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from harness.stack import Running, SharedStacks

import venvd
from venvd._sync.replicas import locate
from venvd._transports.direct import decode_reply
from venvd.errors import BadReply, Conflict, NotFound
from venvd_contract.resources import Replica

pytestmark = pytest.mark.slow

TOKEN = "of all replicas"
NAMES = [f"name-{number}" for number in range(8)]


@pytest.fixture(scope="module", params=["http", "pipe", "rpc"])
def replicas(stacks: SharedStacks, request: pytest.FixtureRequest) -> Iterator[list[Running]]:
    """Two replicas of a backend, whose servers know each other's address."""
    stack = stacks.stack("local")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    settings = {"VENVD_TOKEN_SHA256": digest}
    started = [stack.start(request.param, VENVD_REPLICA=str(number), **settings) for number in range(2)]
    siblings = {"names": 2, "replicas": [{"url": each.url} for each in started]}
    content = {"keys": [], "tokens": [], "siblings": siblings}
    for each in started:
        stack.engine.write_keys(each.record, json.dumps(content).encode())
    with venvd.connect(started[0].url, TOKEN) as backend:
        while not _is_numbered(backend):
            pass
    yield started
    for each in started:
        stack.stop(each)


def _is_numbered(backend: venvd.Backend) -> bool:
    """Return whether the server gives IDs with numbers: it has read its file, and knows that there is another one."""
    with backend.sessions.create() as session:
        return session.name.startswith("0-")


@pytest.fixture(params=[0, 1])
def backend(replicas: list[Running], request: pytest.FixtureRequest) -> Iterator[venvd.Backend]:
    """A client of one of them."""
    with venvd.connect(replicas[request.param].url, TOKEN) as backend:
        yield backend


def find_name(backend: venvd.Backend, number: int) -> venvd.Session:
    """Create a session whose name leads to a replica."""
    for name in NAMES:
        session = backend.sessions.create(name)
        if session.name.startswith(f"{number}-"):
            return session
        session.delete()
    raise AssertionError("no name leads there")


def test_all_clients_share_the_default_session(replicas: list[Running]) -> None:
    """It lives on replica 0, whichever replica a client knows."""
    values = []
    for running in replicas:
        with venvd.connect(running.url, TOKEN) as backend:
            backend.exec(f"shared = globals().get('shared', []) + [{len(values)}]")
            values.append(backend.eval("shared"))
    assert [each[-len(values) :] for each in values][-1] == [0, 1]


@pytest.mark.parametrize("number", [0, 1])
def test_every_kind_of_call_reaches_its_session(backend: venvd.Backend, number: int) -> None:
    """By name and by ID: calls, streams, proxies, files and background calls."""
    with find_name(backend, number) as session:
        session.exec("x = [1]")
        by_name = backend.session(session.name.partition("-")[2])
        assert by_name.eval("x") == [1]
        events = [event.kind for event in by_name.exec_stream("print(x)")]
        assert events == ["stdout", "result"]
        proxy = session.wrap([1, 2])
        assert len(proxy) == 2
        session.files.put("a.txt", b"text")
        assert by_name.files.get("a.txt") == b"text"
        assert session.background.eval("x * 2").result() == [1, 1]
        assert backend.sessions.get(session.name).id == session.name
        with pytest.raises(Conflict):
            backend.sessions.create(session.name.partition("-")[2])
    with pytest.raises(NotFound):
        backend.sessions.get(session.name)


def test_an_event_loop_follows_as_well(replicas: list[Running]) -> None:
    """The same for the asynchronous client."""

    async def work(url: str) -> list[object]:
        async with venvd.connect_async(url, TOKEN) as backend:
            names = [await backend.sessions.create(name) for name in NAMES]
            values = [await session.eval("6 * 7") for session in names]
            streamed = [event.kind async for event in names[0].exec_stream("print(1)")]
            for session in names:
                await session.delete()
            return [*values, {session.name[0] for session in names}, streamed]

    for running in replicas:
        assert asyncio.run(work(running.url)) == [*[42] * len(NAMES), {"0", "1"}, ["stdout", "result"]]


def test_new_sessions_go_to_the_least_loaded_replica(replicas: list[Running]) -> None:
    """The client asks for the replicas before each session without a name; one that gives no answer is left out."""
    counts = [1, 5]

    def list_replicas() -> list[Replica]:
        states = [Replica(n, "running", each.url, sessions=counts[n]) for n, each in enumerate(replicas)]
        return [*states, Replica(2, "running", "http://127.0.0.1:1")][: 3 if counts[0] == 1 else 2]

    with venvd.Backend(replicas[0].url, TOKEN, list_replicas=list_replicas) as backend:
        first = backend.sessions.create()
        counts[0] = 9
        second = backend.sessions.create()
        assert [first.name[0], second.name[0]] == ["0", "1"]
        assert {first.name, second.name, "default", "1-default"} <= {each.id for each in backend.sessions.list()}
        for session in (first, second):
            session.delete()


@pytest.mark.parametrize("replicas", ["http"], indirect=True)
def test_http_clients_are_told_where_a_session_lives(replicas: list[Running]) -> None:
    """The problem has the code, and the address of the other replica."""
    parts = urlsplit(replicas[1].url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    connection.request("POST", "/api/eval", b'{"expression": "1"}', {"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()
    assert (response.status, problem["code"], problem["url"]) == (421, "moved", replicas[0].url)


def test_a_session_cannot_send_a_client_elsewhere() -> None:
    """Over a direct connection user code writes the replies: the code that only a server may use is no address."""
    with pytest.raises(BadReply, match="only its server knows"):
        decode_reply({"id": 1, "error": "gone", "code": "moved", "url": "unix:///tmp/other"})


def test_addresses_of_replicas_are_those_that_a_client_reaches() -> None:
    """Loopback is that of the machine of the known address; another scheme is refused."""
    far, near = "http://host.example:5678", "http://127.0.0.1:5679"
    assert locate(near, far) == "http://host.example:5679"
    assert locate(near, "http://localhost:5678") == near
    assert locate("http://10.0.0.7:5678", far) == "http://10.0.0.7:5678"
    assert locate("unix:///run/b/pipe.sock", "unix:///run/a/pipe.sock") == "unix:///run/b/pipe.sock"
    with pytest.raises(BadReply, match="an address of another kind"):
        locate("unix:///tmp/x", far)
