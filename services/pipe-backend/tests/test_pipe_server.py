"""The pipe server as clients see it, in front of a real worker host."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from .conftest import TOKEN, Client, Server, Start, until  # type: ignore[import-not-found]

SLEEP = "import time\nwhile True: time.sleep(0.01)"


def waits_for(path: Path) -> str:
    return f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"


def busy(server: Server, session: str = "default") -> bool:
    info = server.connect()("session.get", {"id": session})
    return bool(info["result"]["state"] == "busy")


def test_a_call_is_answered(server: Server) -> None:
    """A reply repeats the ID and holds the result."""
    assert server.connect()("eval", {"expression": "1 + 1"}, id="a") == {"id": "a", "result": {"value": 2}}


def test_errors_come_with_type_and_traceback(server: Server) -> None:
    """An error of user code has code, type and traceback beside its message."""
    reply = server.connect()("eval", {"expression": "1 / 0"}, id=5)
    assert reply["id"] == 5
    assert (reply["code"], reply["errorType"]) == ("user_error", "ZeroDivisionError")
    assert "1 / 0" in reply["traceback"]


def test_replies_without_id_keep_their_order(server: Server) -> None:
    """Pipelined requests without ID are answered in their order, a slow one first."""
    client = server.connect()
    client.send("eval", {"expression": "__import__('time').sleep(0.3)"})
    client.send("ping")
    client.send("session.get", {"id": "nobody"})
    client.send("eval", {"expression": "'last'"})
    first, second, third, fourth = (client.receive() for _ in range(4))
    assert first == {"result": {"value": None}}
    assert second == {"result": {"status": "ok"}}
    assert third["code"] == "not_found"
    assert fourth == {"result": {"value": "last"}}


def test_replies_with_id_come_when_they_are_there(server: Server) -> None:
    """`ping` and `session.*` overtake a call that runs on the same connection."""
    client = server.connect()
    client.send("eval", {"expression": SLEEP}, id="slow")
    until(lambda: busy(server), "the call does not run")
    assert client("ping", id="quick") == {"id": "quick", "result": {"status": "ok"}}
    assert client("session.get", {"id": "default"}, id=2)["result"]["state"] == "busy"
    client.send("session.interrupt", {"id": "default"}, id=3)
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert replies[3]["result"] == {"success": True}
    assert replies["slow"]["code"] == "cancelled"


def test_parts_that_come_together(server: Server) -> None:
    """Of two last parts of one file the first is stored, and the other is told that the upload has ended."""
    client = server.connect()
    upload = client("file.put", {"path": "parts", "more": True})["result"]["upload"]
    line = {"command": "file.put", "payload": {"upload": upload}, "attachments": [1]}
    client.raw(b"".join(json.dumps({**line, "id": number}).encode() + b"\nx" for number in (1, 2)))
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert replies[1]["result"]["sizeBytes"] == 1
    assert replies[2]["code"] == "not_found"


def test_many_requests_at_once(server: Server) -> None:
    """Hundreds of pipelined requests are all answered, whatever pieces they come in."""
    client = server.connect()
    ids = range(300)
    lines = b"".join(json.dumps({"command": "ping", "id": number}).encode() + b"\n" for number in ids)
    for start in range(0, len(lines), 1000):
        client.raw(lines[start : start + 1000])
    assert sorted(client.receive()["id"] for _ in ids) == list(ids)


def test_many_clients_at_once(server: Server) -> None:
    """Clients of their own connections get their own answers."""
    values: dict[int, Any] = {}

    def work(number: int, client: Client) -> None:
        values[number] = [client("eval", {"expression": f"{number} * {i}"})["result"]["value"] for i in range(10)]

    threads = [threading.Thread(target=work, args=(number, server.connect())) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert values == {number: [number * i for i in range(10)] for number in range(16)}


def test_a_token_once_is_enough(server: Server) -> None:
    """After one request with the token the connection needs no other."""
    client = server.connect(token=None)
    assert client("eval", {"expression": "1"})["code"] == "unauthenticated"
    assert client("eval", {"expression": "1"}, token=TOKEN)["result"] == {"value": 1}
    assert client("eval", {"expression": "2"})["result"] == {"value": 2}


def test_a_wrong_token_is_refused(server: Server) -> None:
    """A wrong token fails its request, also on a connection that had shown the right one."""
    client = server.connect()
    assert client("eval", {"expression": "1"}, token="wrong")["code"] == "unauthenticated"


def test_ping_is_open(server: Server) -> None:
    """`ping` needs no token, and lets nothing else in."""
    client = server.connect(token=None)
    assert client("ping")["result"] == {"status": "ok"}
    assert client("session.list")["code"] == "unauthenticated"


def test_sessions_values_and_timeouts_are_fields(server: Server) -> None:
    """A request names its session, its value mode and its timeout."""
    client = server.connect()
    made = client("session.create", {})["result"]["id"]
    client("eval", {"expression": "kept = (1, 2)"}, session=made)
    assert client("eval", {"expression": "kept"}, session=made, values="tagged")["result"] == {
        "value": {"$tuple": [1, 2]}
    }
    assert client("eval", {"expression": "kept"})["errorType"] == "NameError"
    assert client("eval", {"expression": SLEEP}, session=made, timeout=0.2)["code"] == "timeout"
    assert client("eval", {"expression": "1"}, timeout=-1)["code"] == "invalid_request"
    assert client("session.delete", {"id": made})["result"] == {"success": True}


def test_a_client_that_goes_cancels_its_call(server: Server) -> None:
    """When the connection closes its running call ends, and the session's state stays."""
    client = server.connect()
    client("eval", {"expression": "stays = 7"})
    client.send("eval", {"expression": SLEEP})
    until(lambda: busy(server), "the call does not run")
    client.close()
    server.clients.remove(client)
    until(lambda: not busy(server), "the call still runs")
    assert server.connect()("eval", {"expression": "stays"})["result"] == {"value": 7}


def test_a_client_that_goes_while_half_closed(server: Server) -> None:
    """A client that had ended its writing and then goes cancels its call too."""
    client = server.connect()
    client.send("eval", {"expression": SLEEP})
    until(lambda: busy(server), "the call does not run")
    client.socket.shutdown(1)
    assert busy(server)
    client.close()
    server.clients.remove(client)
    until(lambda: not busy(server), "the call still runs")


def test_the_end_of_writing_is_not_the_end(server: Server) -> None:
    """A client that has ended its writing still gets its replies, then the end."""
    client = server.connect()
    client.send("eval", {"expression": "__import__('time').sleep(0.2)"})
    client.send("eval", {"expression": "3"})
    client.socket.shutdown(1)
    assert client.receive() == {"result": {"value": None}}
    assert client.receive() == {"result": {"value": 3}}
    assert client.lines.readline() == b""


def test_a_server_without_a_controller(server: Server) -> None:
    """Commands for venvs are unavailable where the server knows no controller."""
    client = server.connect()
    assert client("venv.list", {})["code"] == "unavailable"


def test_attachments_are_read_off_the_stream(server: Server) -> None:
    """Bytes behind a line belong to it, and the next line is found behind them."""
    client = server.connect()
    client.raw(
        b'{"command":"eval","payload":{"expression":"5"},"attachments":[4,1]}\n{\n\x00\xff\n{"command":"ping"}\n'
    )
    assert client.receive() == {"result": {"value": 5}}
    assert client.receive() == {"result": {"status": "ok"}}


def test_output_streams_as_events(server: Server) -> None:
    """Where a request asks for it, events come before the reply, under its ID."""
    client = server.connect()
    client.send("exec", {"code": "print('seen')"}, id=1, stream=True)
    events = [client.receive()]
    while "result" not in events[-1]:
        events.append(client.receive())
    assert {line["id"] for line in events} == {1}
    assert events[-1]["result"]["stdout"] == "seen\n"
    assert "".join(line["data"] for line in events[:-1] if line["event"] == "stdout") in {"", "seen\n"}


def test_probes_and_metrics_have_a_socket_of_their_own(server: Server) -> None:
    """`http.sock` answers probes openly, and metrics for the token."""
    server.connect()("eval", {"expression": "1"})
    assert [server.get(path)[0] for path in ("/health", "/livez", "/readyz", "/metrics")] == [200, 200, 200, 401]
    status, text = server.get("/metrics", TOKEN)
    assert status == 200
    assert b'venvd_requests_total{command="eval",outcome="ok"}' in text


@pytest.mark.slow
def test_the_sockets_have_the_mode_of_the_settings(start: Start) -> None:
    """Mode and group are what the settings say, for both sockets."""
    with start(VENVD_SOCKET_MODE="0606") as server:
        for name in ("pipe.sock", "http.sock"):
            assert stat.S_IMODE((server.directory / name).stat().st_mode) == 0o606


@pytest.mark.slow
def test_a_socket_left_behind_is_replaced(start: Start, tmp_path: Path) -> None:
    """A server starts where one that was killed has left its sockets."""
    with start() as server:
        server.process.kill()
        server.process.wait()
        assert server.path.exists()
        again = subprocess.Popen(
            [sys.executable, "-m", "venvd_pipe_backend"],
            env={"VENVD_SOCKET_DIR": str(server.directory), "VENVD_NO_TOKEN": "1", "VENVD_CHANNEL": str(tmp_path)},
        )
        try:
            until(lambda: answers(server), "the second server does not listen")
        finally:
            again.terminate()
            assert again.wait(60) == 0


def answers(server: Server) -> bool:
    try:
        return server.connect_once()("ping") == {"result": {"status": "ok"}}
    except OSError:
        return False


@pytest.mark.slow
def test_a_second_server_is_refused(start: Start, tmp_path: Path) -> None:
    """A server does not take the sockets of one that runs."""
    with start() as server:
        second = subprocess.run(
            [sys.executable, "-m", "venvd_pipe_backend"],
            env={"VENVD_SOCKET_DIR": str(server.directory), "VENVD_NO_TOKEN": "1", "VENVD_CHANNEL": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert b"another server answers" in second.stderr
        assert server.connect()("ping")["result"] == {"status": "ok"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, b"VENVD_TOKEN_SHA256"),
        ({"VENVD_NO_TOKEN": "1", "VENVD_SOCKET_DIR": "/" + "x" * 120}, b"107 bytes"),
        ({"VENVD_NO_TOKEN": "1", "VENVD_SOCKET_DIR": "/nowhere"}, b"/nowhere/pipe.sock"),
        ({"VENVD_NO_TOKEN": "1", "VENVD_CHANNEL": "/nowhere"}, b"cannot listen in the channel /nowhere"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_served_is_said(settings: dict[str, str], says: bytes, tmp_path: Path) -> None:
    """Without a token, a channel, or a place for its sockets, the server ends with a sentence."""
    ended = subprocess.run(
        [sys.executable, "-m", "venvd_pipe_backend"],
        env={"VENVD_CHANNEL": str(tmp_path), **settings},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in {1, 2}
    assert says in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_sidecar_ends_with_its_worker_host(start: Start, archive: Path) -> None:
    """A server ends when its worker host does, says why, and serves the next one in the same directories."""
    with start(VENVD_SIDECAR="1") as server:
        home, command = server.directory, [sys.executable, "-I", archive, "warden", "--channel"]
        (home / "work").mkdir()
        warden = subprocess.Popen([*command, home / "channel", "--work-dir", home / "work"])
        until(lambda: server.get("/readyz")[0] == 200, "the server is not ready")
        warden.kill()
        warden.wait()
        assert server.process.wait(60) == 1
        environment = {
            "VENVD_SOCKET_DIR": str(home),
            "VENVD_NO_TOKEN": "1",
            "VENVD_CHANNEL": str(home / "channel"),
            "VENVD_SIDECAR": "1",
        }
        again = subprocess.Popen([sys.executable, "-m", "venvd_pipe_backend"], env=environment, stderr=subprocess.PIPE)
        warden = subprocess.Popen([*command, home / "channel", "--work-dir", home / "work"])
        try:
            until(lambda: answers(server) and server.get("/readyz")[0] == 200, "the second server is not ready")
        finally:
            warden.kill()
            warden.wait()
        said = again.communicate(timeout=60)[1]
        assert b"starts again with a new worker host" in said
        assert again.returncode == 1


@pytest.mark.slow
def test_sigterm_lets_running_calls_end(start: Start, tmp_path: Path) -> None:
    """Asked to end, the server answers what runs, begins nothing more, and takes its sockets away."""
    with start(worker=True, VENVD_GRACE="20") as server:
        client = server.connect()
        client.send("eval", {"expression": waits_for(tmp_path / "go") + "'done'"})
        until(lambda: busy(server), "the call does not run")
        server.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert client.receive() == {"result": {"value": "done"}}
        assert client.lines.readline() == b""
        assert server.process.wait(60) == 0
        assert not server.path.exists()
        assert not (server.directory / "http.sock").exists()


@pytest.mark.slow
def test_calls_go_on_without_their_client_where_that_is_set(start: Start, tmp_path: Path) -> None:
    """With `VENVD_CANCEL_ON_DISCONNECT=0` a call outlives its client."""
    with start(worker=True, VENVD_CANCEL_ON_DISCONNECT="0") as server:
        client = server.connect()
        client.send("eval", {"expression": waits_for(tmp_path / "go") + "left = 1"})
        until(lambda: busy(server), "the call does not run")
        client.close()
        server.clients.remove(client)
        (tmp_path / "go").touch()
        until(lambda: not busy(server), "the call still runs")
        assert server.connect()("eval", {"expression": "left"})["result"] == {"value": 1}


def test_a_request_is_cancelled_by_its_id(server: Server) -> None:
    """`cancel` ends a request of the same connection by its ID, once or twice; "7" and 7 are two IDs."""
    client = server.connect()
    client.send("exec", {"code": "while True: pass"}, id="7", token=TOKEN)
    client.send("exec", {"code": "while True: pass"}, id=7)
    client.send("cancel", {"id": 7}, id="waiting")
    assert {client.receive()["id"] for _ in range(2)} == {7, "waiting"}
    client.send("cancel", {"id": "7"}, id="first")
    client.send("cancel", {"id": "7"}, id="second")
    ended = [client.receive() for _ in range(3)]
    assert {line["id"]: line.get("code") for line in ended} == {"first": None, "second": None, "7": "cancelled"}
    assert client("cancel", {"id": "8"})["code"] == "not_found"
