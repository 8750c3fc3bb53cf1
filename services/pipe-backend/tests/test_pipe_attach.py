"""Direct connections: handed to a session, and what they carry."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .conftest import TOKEN, Server, Start, attach, info, metric, until, until_running, value  # type: ignore[import-not-found]

pytestmark = pytest.mark.usefixtures("carrier")


# ---- the connection --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_session_answers_itself(server: Server, session: str) -> None:
    """After `session.attach` calls go to the session, which keeps its state for other connections."""
    direct, other = attach(server, session), server.connect()
    assert direct("exec", {"code": "kept = 41"})["result"]["error"] is None
    assert value(direct, "kept + 1", id="a") == 42
    assert value(other, "kept + 1", session=session) == 42


def test_pipes_are_the_first_line_and_alone(server: Server, session: str) -> None:
    """Else they are refused, and the lines behind are answered where they came."""
    late = attach(server, session, by="socket")
    assert value(late, "1") == 1
    assert "first line" in late("session.pipes", id=2)["error"]
    hasty = attach(server, session, by="socket")
    hasty.raw(b'{"id":1,"command":"session.pipes"}\n{"id":2,"command":"eval","payload":{"expression":"3"}}\n')
    assert "behind" in hasty.receive()["error"]
    assert hasty.receive() == {"id": 2, "result": {"value": 3}}


def test_without_a_name_it_is_the_default_session(server: Server) -> None:
    """No session named means `default`; the line's own field names one as well as the payload."""
    client = server.connect_once()
    assert client("session.attach", token=TOKEN)["result"]["id"] == "default"
    assert value(client, "1 + 1") == 2
    named = server.connect_once()
    assert named("session.attach", None, session="default", id=7, token=TOKEN)["id"] == 7


def test_ids_are_repeated(server: Server, session: str) -> None:
    """An ID is a number or a text, and comes back as it was."""
    direct = attach(server, session)
    for identity in (0, -1, 1.5, "a", "ü\n", 2**70):
        assert direct("eval", {"expression": "1"}, id=identity)["id"] == identity
    for identity in ([], {}, True):
        assert direct("eval", {"expression": "1"}, id=identity)["code"] == "invalid_request"
    assert "longer" in direct("eval", {"expression": "1"}, id="x" * 300)["error"]


def test_unknown_fields(server: Server, session: str) -> None:
    """A session refuses fields that it does not know, of the line and of the payload, and names the nearest one."""
    direct = attach(server, session)
    refused = direct("eval", {"expression": "1"}, timeuot=1)
    assert (refused["code"], 'is "timeout" meant?' in refused["error"]) == ("invalid_request", True)
    assert 'is "expression" meant?' in direct("eval", {"expresion": "1"})["error"]
    assert "known are" in direct("eval", {"expression": "1"}, x=1)["error"]


@pytest.mark.slow
def test_requests_sent_behind_the_first_line(server: Server, session: str) -> None:
    """Nothing is lost that was sent before the connection was direct, however much of it."""
    client = server.connect_once()
    lines = [json.dumps({"command": "session.attach", "session": session, "token": TOKEN})]
    lines += [json.dumps({"id": n, "command": "eval", "payload": {"expression": str(n)}}) for n in range(5000)]
    client.raw("\n".join(lines).encode() + b"\n")
    assert client.receive()["result"]["id"] == session
    assert [client.receive()["result"]["value"] for _ in range(5000)] == list(range(5000))


def test_framing(server: Server, session: str) -> None:
    """Mark, CRLF, blank lines, bytes in pieces and a last line without an end, as on every connection."""
    client = server.connect_once()
    first = json.dumps({"command": "session.attach", "session": session, "token": TOKEN})
    client.raw(b"\xef\xbb\xbf" + first.encode() + b"\r\n")
    assert "result" in client.receive()
    client.raw(b'\r\n\n{"command":"eval","payload":{"expr')
    client.raw(b'ession":"3"}}\r\n{"command":"eval","payload":{"expression":"4"}}')
    assert client.receive()["result"] == {"value": 3}
    client.end()
    assert client.receive()["result"] == {"value": 4}
    assert client.closed()


def test_attachments_are_read_off_the_stream(server: Server, session: str) -> None:
    """Bytes behind a line belong to it; an error says when they end too soon or have a wrong length."""
    direct = attach(server, session)
    direct.raw(b'{"command":"eval","payload":{"expression":"1"},"attachments":[3,2]}\nab\n\n\n')
    assert direct.receive()["result"] == {"value": 1}
    direct.raw(b'{"id":5,"command":"eval","payload":{},"attachments":[9]}\nabc')
    direct.end()
    reply = direct.receive()
    assert (reply["id"], reply["code"]) == (5, "invalid_request")
    assert direct.closed()
    wrong = attach(server, session)
    assert wrong("eval", {}, id=6, attachments=["x"])["code"] == "invalid_request"
    assert wrong.closed()


def test_lines_that_are_no_requests(server: Server, session: str) -> None:
    """A bad line is answered, and the next one is read."""
    direct = attach(server, session)
    for line in (b"nonsense\n", b"[1]\n", b'{"command":1}\n', b"\xff\n", b'{"command":"eval","payload":[]}\n'):
        direct.raw(line)
        assert direct.receive()["code"] == "invalid_request"
    assert direct("eval", {"expression": "1"}, timeout=-1)["code"] == "invalid_request"
    assert direct("eval", {"expression": "1"}, values="odd")["code"] == "invalid_request"
    assert direct("eval", {"expression": "1"}, stream=1)["code"] == "invalid_request"
    assert value(direct, "1") == 1


def test_what_the_server_answers(server: Server, session: str) -> None:
    """`ping`, `session.*`, a second `session.attach` and other sessions get an error that names another connection."""
    direct = attach(server, session)
    for command in ("ping", "session.list", "session.attach", "session.interrupt", "call.start"):
        reply = direct(command, {"id": session})
        assert reply["code"] == "invalid_request"
        assert "another" in reply["error"]
    assert "another" in direct("eval", {"expression": "1"}, session="default")["error"]
    assert "another" in direct("eval", {"expression": "1"}, call="mine")["error"]
    assert value(direct, "1", session=session) == 1


def test_streams(server: Server, session: str) -> None:
    """Output comes in events, before the reply."""
    direct = attach(server, session)
    direct.send("exec", {"code": "print('a'); display(1)"}, id=1, stream=True)
    replies = [direct.receive() for _ in range(3)]
    assert [each.get("event") for each in replies] == ["stdout", "display", None]
    assert replies[-1]["result"]["stdout"] == "a\n"


# ---- what is refused -------------------------------------------------------------------------------------------


def test_only_the_first_line_attaches(server: Server) -> None:
    """Behind another request `session.attach` is refused, and the connection goes on as it was."""
    client = server.connect()
    reply = client("session.attach", {"id": "default"})
    assert reply["code"] == "invalid_request"
    assert "first" in reply["error"]
    assert value(client, "1") == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"token": None}, "unauthenticated"),
        ({"token": "wrong"}, "unauthenticated"),
        ({"payload": {"id": "nobody"}}, "not_found"),
        ({"payload": {"id": 5}}, "invalid_request"),
        ({"payload": {"id": "default"}, "session": "other"}, "invalid_request"),
    ],
)
def test_refusals(server: Server, fields: dict[str, Any], code: str) -> None:
    """Who may not attach is told why; what was sent behind it is answered by the server all the same."""
    client = server.connect_once()
    request = {"id": 1, "command": "session.attach", "payload": {}, "token": TOKEN, **fields}
    client.raw(json.dumps(request).encode() + b'\n{"id":2,"command":"ping"}\n')
    assert client.receive()["code"] == code
    assert client.receive() == {"id": 2, "result": {"status": "ok"}}


@pytest.mark.slow
def test_a_setting_refuses(start: Start) -> None:
    """Where direct clients are not taken, the error says so and the connection is served as any."""
    with start(worker=True, VENVD_ATTACH="0") as server:
        client = server.connect_once()
        assert client("session.attach", token=TOKEN)["code"] == "not_implemented"
        assert value(client, "1 + 1") == 2


@pytest.mark.slow
def test_limits(start: Start) -> None:
    """There are so many direct clients of a session and of a backend, and one that goes makes room."""
    with start(worker=True, VENVD_MAX_ATTACHED="3", VENVD_MAX_ATTACHED_PER_SESSION="2") as server:
        server.connect()("session.create", {"name": "two"})
        first = attach(server)
        attach(server)
        assert server.connect_once()("session.attach", token=TOKEN)["code"] == "busy"
        attach(server, "two")
        assert server.connect_once()("session.attach", {"id": "two"}, token=TOKEN)["code"] == "busy"
        assert metric(server, "venvd_direct_clients") == 3
        first.close()
        until(lambda: metric(server, "venvd_direct_clients") == 2, "the client is still counted")
        attach(server)


# ---- order -----------------------------------------------------------------------------------------------------


def test_one_order_for_all(server: Server, session: str) -> None:
    """Calls of direct clients and of the server's run one at a time, even if one side floods."""
    clients = [attach(server, session), attach(server, session), server.connect()]
    code = "n = globals().get('n', 0); assert not globals().get('inside'); inside = 1; n += 1; inside = 0; n"
    for client in clients[:2]:
        one = json.dumps({"command": "eval", "payload": {"expression": code}}) + "\n"
        client.raw(one.encode() * 300)
    numbers = [value(clients[2], code, session=session) for _ in range(20)]
    numbers += [client.receive()["result"]["value"] for client in clients[:2] for _ in range(300)]
    assert sorted(numbers) == list(range(1, 621))


@pytest.mark.slow
def test_a_flood_lets_others_through(server: Server, session: str) -> None:
    """A client that sends without end takes turns with the others."""
    flooding, other = attach(server, session), attach(server, session)
    flooding.raw(b'{"command":"eval","payload":{"expression":"__import__(\'time\').sleep(0.005)"}}\n' * 2000)
    began = [value(other, "1") for _ in range(5)]
    assert began == [1] * 5
    left = info(server.connect(), session)["calls"]
    assert left < 1900
    flooding.close()


@pytest.mark.slow
def test_a_proxied_call_behind_a_direct_one(server: Server, session: str) -> None:
    """A call of the server's waits for a direct one, and keeps its own deadline while it does."""
    direct, other = attach(server, session), server.connect()
    direct.send("eval", {"expression": "__import__('time').sleep(1.5) or 'slept'"})
    until_running(server, session)
    late = other("eval", {"expression": "globals().update(ran=1)"}, session=session, timeout=0.2)
    assert late["code"] == "timeout"
    assert "waited" in late["error"]
    assert value(other, "'ran' in globals()", session=session) is False
    assert direct.receive()["result"] == {"value": "slept"}
    assert info(other, session)["restarts"] == 0


def test_a_client_that_does_not_read(server: Server, session: str) -> None:
    """Replies that a client does not read hold up no other client, and come in order once they are read."""
    lazy, other = attach(server, session), attach(server, session)
    lazy.raw(b'{"command":"eval","payload":{"expression":"\'x\' * 200000"}}\n' * 50)
    assert [value(other, "1") for _ in range(50)] == [1] * 50
    assert [len(lazy.receive()["result"]["value"]) for _ in range(50)] == [200_000] * 50


@pytest.mark.slow
def test_an_attachment_that_is_not_read(server: Server, session: str) -> None:
    """It holds the session up for a moment, which the session does not spend on trying."""
    lazy, other = attach(server, session), server.connect()
    handle = lazy("eval", {"expression": "memoryview(bytearray(60_000_000))"})["result"]["handleId"]
    used = "__import__('time').process_time()"
    before = value(other, used, session=session)
    lazy.send("array.get", {"handleId": handle})
    time.sleep(1.5)
    assert value(other, used, session=session) - before < 1
    size = lazy.receive()["attachments"][0]
    assert len(lazy.lines.read(size)) == size == 60_000_000
