"""Direct connections: handed to a session, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import TOKEN, Client, PipedClient, Server, Start, until  # type: ignore[import-not-found]

LOOPS = "import time\nwhile True:\n    time.sleep(0.01)"
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


CARRIER = "socket"


@pytest.fixture(autouse=True, params=["socket", "pipes"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What carries the lines of direct clients: every fact here is one of both."""
    monkeypatch.setattr(sys.modules[__name__], "CARRIER", request.param)


def attach(server: Server, session: str | None = None, *, by: str | None = None) -> Client:
    """A client whose connection is direct."""
    client = server.connect_once()
    reply = client("session.attach", {"id": session}, token=TOKEN)
    assert reply["result"]["id"] == (session or "default")
    if (by or CARRIER) == "pipes":
        client = PipedClient(client)
        server.clients[-1] = client
    return client


@pytest.fixture
def session(server: Server) -> Iterator[str]:
    """A session of the test's own."""
    name = f"s{secrets.token_hex(4)}"
    client = server.connect()
    assert "result" in client("session.create", {"name": name})
    yield name
    client("session.delete", {"id": name})


def value(client: Client, expression: str, **fields: Any) -> Any:
    return client("eval", {"expression": expression}, **fields)["result"]["value"]


def info(client: Client, session: str) -> dict[str, Any]:
    found: dict[str, Any] = client("session.get", {"id": session})["result"]
    return found


def metric(server: Server, name: str) -> float:
    _, body = server.get("/metrics", TOKEN)
    (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)
    return float(found)


def until_running(server: Server, session: str) -> Client:
    """Wait until the session runs a call; a client of the server that can interrupt it."""
    client = server.connect()
    until(lambda: info(client, session)["state"] == "busy", "nothing runs")
    return client


# ---- the connection --------------------------------------------------------------------------------------------


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
    """Bytes behind a line belong to it; where they end too soon, or cannot be, that is said."""
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
    """`ping`, `session.*` and a second `session.attach` are told to use another connection; so are other sessions."""
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
    found = [direct.receive() for _ in range(3)]
    assert [each.get("event") for each in found] == ["stdout", "display", None]
    assert found[-1]["result"]["stdout"] == "a\n"


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


def test_a_setting_refuses(start: Start) -> None:
    """Where direct clients are not taken, the error says so and the connection is served as any."""
    with start(worker=True, VENVD_ATTACH="0") as server:
        client = server.connect_once()
        assert client("session.attach", token=TOKEN)["code"] == "not_implemented"
        assert value(client, "1 + 1") == 2


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
    """Calls of direct clients and of the server's run one at a time, whoever floods."""
    clients = [attach(server, session), attach(server, session), server.connect()]
    code = "n = globals().get('n', 0); assert not globals().get('inside'); inside = 1; n += 1; inside = 0; n"
    for client in clients[:2]:
        one = json.dumps({"command": "eval", "payload": {"expression": code}}) + "\n"
        client.raw(one.encode() * 300)
    found = [value(clients[2], code, session=session) for _ in range(20)]
    found += [client.receive()["result"]["value"] for client in clients[:2] for _ in range(300)]
    assert sorted(found) == list(range(1, 621))


def test_a_flood_lets_others_through(server: Server, session: str) -> None:
    """A client that sends without end takes turns with the others."""
    flooding, other = attach(server, session), attach(server, session)
    flooding.raw(b'{"command":"eval","payload":{"expression":"__import__(\'time\').sleep(0.005)"}}\n' * 2000)
    began = [value(other, "1") for _ in range(5)]
    assert began == [1] * 5
    left = info(server.connect(), session)["calls"]
    assert left < 1900
    flooding.close()


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
    """Replies that nobody reads hold up nobody else, and come in order once they are read."""
    lazy, other = attach(server, session), attach(server, session)
    lazy.raw(b'{"command":"eval","payload":{"expression":"\'x\' * 200000"}}\n' * 50)
    assert [value(other, "1") for _ in range(50)] == [1] * 50
    assert [len(lazy.receive()["result"]["value"]) for _ in range(50)] == [200_000] * 50


def test_an_attachment_that_nobody_reads(server: Server, session: str) -> None:
    """It holds the session up for a moment, which the session does not spend on trying."""
    lazy, other = attach(server, session), server.connect()
    handle = lazy("eval", {"expression": "memoryview(bytearray(60_000_000))"})["result"]["handleId"]
    used = "__import__('time').process_time()"
    before = value(other, used, session=session)
    lazy.send("array.get", {"handleId": handle})
    time.sleep(0.2)
    assert value(other, used, session=session) - before < 0.5
    size = lazy.receive()["attachments"][0]
    assert len(lazy.lines.read(size)) == size == 60_000_000


# ---- stopping --------------------------------------------------------------------------------------------------


def test_interrupts(server: Server, session: str) -> None:
    """`session.interrupt` over another connection stops a direct call; the state is kept."""
    direct = attach(server, session)
    direct("exec", {"code": "kept = 1"})
    direct.send("exec", {"code": LOOPS}, id=3)
    other = until_running(server, session)
    assert other("ping") == {"result": {"status": "ok"}}
    assert other("session.interrupt", {"id": session})["result"] == {"success": True}
    reply = direct.receive()
    assert (reply["id"], reply["code"], reply.get("stateLost")) == (3, "cancelled", None)
    assert value(direct, "kept") == 1


def test_deadlines(server: Server, session: str) -> None:
    """A direct call has its own deadline, and the state survives it."""
    direct = attach(server, session)
    direct("exec", {"code": "kept = 1"})
    reply = direct("exec", {"code": LOOPS}, timeout=0.2)
    assert reply["code"] == "timeout"
    assert value(direct, "kept") == 1


def test_a_timeout_longer_than_floats(server: Server, session: str) -> None:
    """It is as good as any that is longer than anybody waits."""
    assert value(attach(server, session), "1", timeout=10**400) == 1


def test_the_default_deadline(start: Start) -> None:
    """Where a direct call names no timeout, the backend's counts."""
    with start(worker=True, VENVD_DEFAULT_TIMEOUT="0.3") as server:
        assert attach(server)("exec", {"code": LOOPS})["code"] == "timeout"


HANGS = "import time\nclass Hangs:\n    def __del__(self): time.sleep(600)"


def test_a_session_that_hangs_without_a_call(start: Start) -> None:
    """One that hears nothing although it runs no call is ended after the default deadline, and serves again."""
    with start(worker=True, VENVD_DEFAULT_TIMEOUT="1") as server:
        direct, idle = attach(server), attach(server)
        direct("exec", {"code": HANGS})
        direct("eval", {"expression": "Hangs()"}, lease=0.1)
        time.sleep(0.3)
        direct.send("eval", {"expression": "1"})
        assert direct.closed()
        assert idle.closed()
        assert value(attach(server), "'Hangs' in globals()") is False


def test_an_idle_session_is_not_ended(start: Start) -> None:
    """A session keeps its state however long its direct clients say nothing."""
    with start(worker=True, VENVD_DEFAULT_TIMEOUT="0.3") as server:
        direct = attach(server)
        direct("exec", {"code": "kept = 1"})
        time.sleep(1.5)
        assert value(direct, "kept") == 1


def test_what_will_not_stop_is_killed(server: Server, session: str) -> None:
    """Code that goes on after its deadline is killed; the answer says that the state is lost, nothing follows it."""
    direct, waiting = attach(server, session), attach(server, session)
    code = "import time\nwhile True:\n    try:\n        time.sleep(10)\n    except BaseException:\n        pass"
    reply = direct("exec", {"code": code}, id="mine", timeout=0.2)
    assert (reply["id"], reply["code"], reply["stateLost"]) == ("mine", "timeout", True)
    assert direct.closed()
    assert waiting.closed()
    assert value(attach(server, session), "'kept' in globals()") is False


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (DIES, "SIGSEGV"),
        ("import os; os._exit(3)", "status 3"),
        ("import os; os.closerange(3, 65536)", "closed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_the_process_dies(server: Server, session: str, code: str, how: str) -> None:
    """The server answers for a session that cannot: how it ended, and that the state is lost; nothing follows that."""
    direct, idle = attach(server, session), attach(server, session)
    reply = direct("exec", {"code": code}, id=9)
    assert (reply["id"], reply["code"], reply["stateLost"]) == (9, "session_lost", True)
    assert how in reply["error"]
    assert direct.closed()
    assert idle.closed()
    assert value(attach(server, session), "1") == 1


@pytest.mark.parametrize("command", ["session.reset", "session.delete"])
def test_reset_and_delete(server: Server, command: str) -> None:
    """Both answer the running direct call with `session_lost` and end the session's direct connections."""
    name = f"s{secrets.token_hex(4)}"
    server.connect()("session.create", {"name": name})
    direct = attach(server, name)
    direct.send("exec", {"code": LOOPS}, id=1)
    other = until_running(server, name)
    assert "result" in other(command, {"id": name})
    reply = direct.receive()
    assert (reply["id"], reply["code"], reply["stateLost"]) == (1, "session_lost", True)
    assert direct.closed()
    other("session.delete", {"id": name})


def test_a_client_that_goes_away(server: Server, session: str, tmp_path: Path) -> None:
    """Its running call is interrupted, what it had sent behind that is not begun, and the state is kept."""
    direct, other = attach(server, session), server.connect()
    direct("exec", {"code": "runs = 0"})
    direct.send("exec", {"code": f"runs += 1\nopen({str(tmp_path / 'began')!r}, 'w')\n" + LOOPS})
    direct.send("exec", {"code": "runs += 1"})
    until((tmp_path / "began").exists, "the call does not run")
    direct.close()
    assert value(other, "runs", session=session) == 1
    assert info(other, session)["restarts"] == 0


def waits_for(path: Path) -> str:
    return f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"


def test_a_client_that_goes_away_before_its_turn(server: Server, session: str, tmp_path: Path) -> None:
    """A call that waits behind another's is not begun once its client has gone."""
    first, second, other = attach(server, session), attach(server, session), server.connect()
    first.send("eval", {"expression": waits_for(tmp_path / "go") + "None"})
    until_running(server, session)
    second.send("exec", {"code": "begun = True"})
    second.close()
    (tmp_path / "go").touch()
    assert first.receive()["result"] == {"value": None}
    assert value(other, "'begun' in globals()", session=session) is False


def test_going_away_may_cancel_nothing(start: Start, tmp_path: Path) -> None:
    """With the setting off a call goes on when its client has gone."""
    with start(worker=True, VENVD_CANCEL_ON_DISCONNECT="0") as server:
        direct, other = attach(server), server.connect()
        direct.send("exec", {"code": waits_for(tmp_path / "go") + "ended = True"})
        direct.send("exec", {"code": "also = True"})
        until_running(server, "default")
        direct.close()
        (tmp_path / "go").touch()
        until(lambda: value(other, "{'ended', 'also'} <= set(globals())"), "the calls did not go on")


def test_what_a_client_left_is_run_though_it_read_nothing(start: Start) -> None:
    """With the setting off, replies that wait for a client that has gone hold up nothing that comes from it."""
    with start(worker=True, VENVD_CANCEL_ON_DISCONNECT="0") as server:
        left, other = attach(server, by="pipes"), server.connect()
        assert isinstance(left, PipedClient)
        left.send("eval", {"expression": "'x' * 200_000"})
        until(lambda: value(other, "1") == 1, "the session is held up")
        left.lines.close()
        left.words.close()
        left.socket.close()
        time.sleep(0.2)
        left.send("exec", {"code": "ran = True"})
        until(lambda: value(other, "'ran' in globals()"), "the call was not run")


# ---- user code -------------------------------------------------------------------------------------------------


def test_a_fork_never_answers(server: Server, session: str) -> None:
    """A forked child that comes back to where the session would answer ends instead."""
    direct = attach(server, session)
    code = "import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\nbool(child)"
    assert [value(direct, code, id=n) for n in range(3)] == [True] * 3
    assert value(direct, "'once'") == "once"


def test_a_fork_holds_no_connection(server: Server, session: str) -> None:
    """A child in the background keeps no direct connection open."""
    direct, other = attach(server, session), server.connect()
    code = "import os, time\nif not os.fork():\n    time.sleep(60)\n    os._exit(0)"
    assert direct("exec", {"code": code})["result"]["error"] is None
    assert "result" in other("session.reset", {"id": session})
    assert direct.closed()


def test_closing_one_descriptor_hurts_no_other_session(server: Server, session: str) -> None:
    """Code that closes what it finds loses its own session; another one's direct client notices nothing."""
    witness = attach(server)
    direct = attach(server, session)
    code = """
import os
for name in os.listdir('/proc/self/fd'):
    try:
        if os.readlink('/proc/self/fd/' + name).startswith(('socket', 'pipe')): os.close(int(name))
    except OSError: pass
"""
    assert direct("exec", {"code": code})["code"] == "session_lost"
    assert value(witness, "1") == 1


def test_patched_modules(server: Server, session: str) -> None:
    """Code that patches what we use of the standard library changes no answer."""
    direct = attach(server, session)
    code = "import json, socket, select, struct\nfor m in (json, socket, select, struct):\n"
    code += "    for n in list(vars(m)):\n        if callable(getattr(m, n)): setattr(m, n, None)"
    assert direct("exec", {"code": code})["result"]["error"] is None
    assert [value(direct, "1 + 1", id=n) for n in range(3)] == [2] * 3


# ---- what is told of it ----------------------------------------------------------------------------------------


def test_it_counts(server: Server, session: str) -> None:
    """Direct calls and bytes are in the session's information and in the metrics."""
    names = ('venvd_direct_requests_total{outcome="ok"}', 'venvd_direct_requests_total{outcome="error"}')
    before = [metric(server, name) for name in names]
    sent = metric(server, "venvd_direct_response_bytes_total")
    direct, other = attach(server, session), server.connect()
    direct("eval", {"expression": "'x' * 1000"})
    direct("eval", {"expression": "1 / 0"})
    assert direct("eval", {"expression": "object()"})["result"]["isHandle"]
    assert (info(other, session)["calls"], info(other, session)["handles"]) == (3, 1)
    assert [metric(server, name) for name in names] == [before[0] + 2, before[1] + 1]
    assert metric(server, "venvd_direct_response_bytes_total") > sent + 1000


def test_idle_sessions(server: Server) -> None:
    """Direct calls keep a session; without any it ends, and its direct connections with it."""
    other = server.connect()
    name = f"brief-{CARRIER}"  # a name is free again only when the whole tree behind it is gone
    other("session.create", {"name": name, "idleTimeout": 2.0})
    direct = attach(server, name)
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        assert value(direct, "__import__('time').sleep(0.2) or 1") == 1
    assert direct.closed()
    assert other("session.get", {"id": name})["code"] == "not_found"


def test_nothing_is_left(server: Server, session: str) -> None:
    """Neither server nor session keeps descriptors of direct clients that have gone."""
    other = server.connect()
    attach(server, session).close()
    count = "len(__import__('os').listdir('/proc/self/fd'))"
    held, kept = server.descriptors(), value(other, count, session=session)
    for _ in range(100):
        direct = attach(server, session)
        assert value(direct, "1") == 1
        direct.close()
    until(lambda: server.descriptors() <= held, "the server keeps descriptors")
    until(lambda: value(other, count, session=session) <= kept, "the session keeps descriptors")


def test_a_session_without_room(server: Server) -> None:
    """A session whose limit on open files is reached takes no further connection, says so, and goes on."""
    other = server.connect()
    other("session.create", {"name": "narrow", "limits": {"openFiles": 48}})
    clients = []
    refused = {}
    while not refused:
        clients.append(attach(server, "narrow", by="socket"))
        with contextlib.suppress(BrokenPipeError):
            clients[-1].send("eval", {"expression": "1"})
        reply = clients[-1].receive()
        refused = reply if "error" in reply else {}
    assert refused["code"] == "limit_exceeded"
    assert "open files" in refused["error"]
    assert clients[-1].closed()
    assert value(clients[0], "2") == 2
    other("session.delete", {"id": "narrow"})
