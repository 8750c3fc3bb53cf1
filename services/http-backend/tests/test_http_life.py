"""Streams, clients that go away, code that ends its process, and the server's own start and end."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

STREAM = {"Accept": "text/event-stream"}


def events(body: bytes) -> list[tuple[str, Any]]:
    parsed = []
    for block in body.decode().strip().split("\n\n"):
        kind, data = block.split("\n")
        parsed.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return parsed


def stream(server: Any, code: str) -> list[tuple[str, Any]]:
    answer = server.post("/api/exec", {"code": code}, **STREAM)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    return events(answer.body)


def test_output_streams(server: Any) -> None:
    """Events come in their order: output, the result, and the end with what it cost."""
    events = stream(server, "import sys\nprint('a')\nprint('b', file=sys.stderr)\n42")
    assert events[:3] == [("stdout", "a\n"), ("stderr", "b\n"), ("result", {"value": 42})]
    kind, summary = events[3]
    assert kind == "done"
    assert summary["truncated"] is False
    assert summary["durationMs"] >= 0


def test_output_streams_as_it_appears(server: Any, tmp_path: Path) -> None:
    """What is printed arrives while the code still runs: here the code waits until it has arrived."""
    flag = tmp_path / "seen"
    code = (
        f"import os, time\nprint('first')\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.01)\nprint('second')"
    )
    body = json.dumps({"code": code}).encode()
    sock = server.connect()
    headers = (f"Content-Length: {len(body)}", "Accept: text/event-stream", "Connection: close")
    sock.sendall(server.head("POST", "/api/exec", *headers) + body)
    assert b"second" not in server.read_until(sock, b"first")
    flag.touch()
    rest = server.read_all(sock)
    assert b"second" in rest
    assert b"event: done" in rest


def test_errors_of_the_code_end_the_stream(server: Any) -> None:
    """An exception is the event `error`, with its type and traceback, then the end."""
    events = stream(server, "print('a')\n1/0")
    assert [kind for kind, _ in events] == ["stdout", "error", "done"]
    assert events[1][1]["errorType"] == "ZeroDivisionError"


def test_a_lost_session_ends_the_stream(server: Any) -> None:
    """A process that ends is the event `error` with problem details."""
    events = stream(server, "import os\nos._exit(3)")
    assert [kind for kind, _ in events] == ["error", "done"]
    assert events[0][1]["code"] == "session_lost"
    assert events[0][1]["stateLost"] is True


def test_what_cannot_begin_is_no_stream(server: Any) -> None:
    """Errors before the call begins have their status, stream or not."""
    answer = server.post("/api/exec", {"code": "1"}, X_Venvd_Session="nobody", **STREAM)
    assert answer.status == 404
    assert answer.problem["code"] == "not_found"
    assert server.ask("POST", "/api/exec", {"code": "1"}, token=None, **STREAM).status == 401


def sleeper(mark: Path) -> bytes:
    """The body of a call that takes long, and makes a file once it runs."""
    code = f"left = 'began'\nimport time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(60)\nleft = 'ended'"
    return json.dumps({"code": code}).encode()


def until_there(mark: Path) -> None:
    until = time.monotonic() + 20
    while not mark.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def sleep_then_leave(server: Any, path: str, mark: Path, *headers: str) -> None:
    """Begin a call that takes long, wait until it runs, and close the connection."""
    body = sleeper(mark)
    sock = server.connect()
    sock.sendall(server.head("POST", path, f"Content-Length: {len(body)}", *headers) + body)
    until_there(mark)
    sock.close()


@pytest.mark.parametrize(
    ("path", "headers"), [("/api/eval", ()), ("/api/exec", ()), ("/api/exec", ("Accept: text/event-stream",))]
)
def test_a_client_that_goes_away_cancels_its_call(
    server: Any, path: str, headers: tuple[str, ...], tmp_path: Path
) -> None:
    """The call is interrupted, its session keeps its state and answers the next one."""
    server.eval("left = None\n1")
    sleep_then_leave(server, path, tmp_path / "began", *headers)
    assert server.eval("left", X_Venvd_Timeout="20") == "began"


@pytest.mark.slow
def test_a_client_may_go_away_where_that_is_wanted(start_server: Any, tmp_path: Path) -> None:
    """With VENVD_CANCEL_ON_DISCONNECT=0 the call goes on without its client, and comes to its end."""
    server = start_server(cancel_on_disconnect="0")
    began, go = tmp_path / "began", tmp_path / "go"
    before = descriptors(server)
    code = (
        f"import os, time\nopen({str(began)!r}, 'w').close()\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    body = json.dumps({"code": f"{code}\nleft = 'ended'"}).encode()
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}") + body)
    until_there(began)
    sock.close()
    until = time.monotonic() + 60
    while descriptors(server) > before:  # until the server knows that its client has left
        assert time.monotonic() < until
        time.sleep(0.01)
    go.touch()
    assert server.eval("left") == "ended"
    server.stop()


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os._exit(1)", "exited with status 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_code_that_ends_its_process_is_told(server: Any, code: str, how: str) -> None:
    """The answer says how the process ended and that its state is gone; a new one serves the next call."""
    server.eval("there = 1\nthere")
    answer = server.post("/api/eval", {"expression": code})
    assert answer.status == 410
    assert answer.problem["stateLost"] is True
    assert how in answer.problem["detail"]
    assert server.eval("'there' in globals()") is False


@pytest.mark.slow
def test_health_stays_green_while_code_loops(server: Any) -> None:
    """Probes are answered while a session runs code that never ends and cannot be stopped nicely."""
    code = "while True:\n  try:\n    while True: pass\n  except BaseException: pass"
    answers: list[Any] = []
    body = {"expression": code}
    call = threading.Thread(target=lambda: answers.append(server.post("/api/eval", body, X_Venvd_Timeout="1")))
    call.start()
    while call.is_alive():
        assert server.ask("GET", "/health").json == {"status": "ok"}
        assert server.ask("GET", "/readyz").status == 200
    call.join()
    assert answers[0].status == 504
    assert server.eval("1") == 1


def test_idle_connections_are_kept(server: Any) -> None:
    """A connection is used again and again."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("GET", "/health")
        connection.getresponse().read()
        assert connection.sock is first
    connection.close()


@pytest.mark.slow
def test_the_server_ends_within_its_grace(start_server: Any) -> None:
    """SIGTERM answers what still runs with problem details, and the process ends."""
    server = start_server()
    answers: list[Any] = []
    body = {"expression": "import time; time.sleep(60)"}
    call = threading.Thread(target=lambda: answers.append(server.post("/api/eval", body)))
    call.start()
    while server.ask("GET", "/v1/sessions/default").json["state"] != "busy":
        time.sleep(0.01)
    server.stop()
    call.join()
    assert answers[0].problem["code"] in {"session_lost", "unavailable"}


@pytest.mark.slow
def test_the_server_refuses_to_start_unguarded() -> None:
    """Without a token's digest and without VENVD_NO_TOKEN=1 there is no server, but a sentence."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    ended = subprocess.run(
        [sys.executable, "-m", "venvd_http_backend"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "VENVD_NO_TOKEN=1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://evil.example", "127.0.0.1", 403),
        ("null", "127.0.0.1", 403),
        ("http://rebound.example:1", "rebound.example:1", 403),
        ("http://localhost:1", "localhost:1", 200),
        ("http://127.0.0.1:1", "127.0.0.1:1", 200),
    ],
)
def test_web_pages_cannot_use_an_open_backend(open_server: Any, origin: str, host: str, status: int) -> None:
    """Without a token, requests that a browser sends for a foreign page are refused; programs need nothing."""
    answer = open_server.post("/api/eval", {"expression": "1"}, Origin=origin, Host=host)
    assert answer.status == status
    assert open_server.eval("1") == 1


def test_every_call_is_one_line_of_json(server: Any) -> None:
    """At level `debug` each call is a line with command, outcome and time; user code's message is in none."""
    server.eval("1")
    server.post("/api/eval", {"expression": "raise type('OfThisTest', (Exception,), {})('private')"})
    failed: list[dict[str, Any]] = []
    until = time.monotonic() + 60
    while not failed:  # a line may be written after the answer, and other tests wrote lines to the same log
        assert time.monotonic() < until
        time.sleep(0.01)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        calls = [line for line in lines if line["logger"] == "venvd.call"]
        failed = [call for call in calls if call.get("errorType") == "OfThisTest"]
    assert all({"command", "outcome", "durationMs"} <= call.keys() for call in calls)
    assert {"session", "bytesIn", "bytesOut"} <= failed[0].keys()
    assert failed[0]["outcome"] == "user_error"
    assert [call for call in calls if call["outcome"] == "ok"]
    assert "private" not in server.log.read_text()


BODY = b'{"expression":"6 * 7"}'
VALUE = b'{"value":42}'


def test_a_body_may_come_in_pieces(server: Any) -> None:
    """It makes no difference how a request is cut into packets."""
    sock = server.connect()
    whole = server.head("POST", "/api/eval", f"Content-Length: {len(BODY)}", "Connection: close") + BODY
    for piece in (whole[:30], whole[30:-10], whole[-10:-1], whole[-1:]):
        sock.sendall(piece)
        time.sleep(0.05)
    assert server.read_all(sock).endswith(VALUE)


def test_a_body_may_be_chunked(server: Any) -> None:
    """A body without a length is one like any other."""
    sock = server.connect()
    head = server.head("POST", "/api/eval", "Transfer-Encoding: chunked", "Connection: close")
    sock.sendall(head + b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n")
    assert server.read_all(sock).endswith(VALUE)


def test_a_client_may_ask_before_it_sends(server: Any) -> None:
    """`Expect: 100-continue` is told to go on, and then answered."""
    sock = server.connect()
    headers = (f"Content-Length: {len(BODY)}", "Expect: 100-continue", "Connection: close")
    sock.sendall(server.head("POST", "/api/eval", *headers))
    assert server.read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    sock.sendall(BODY)
    assert server.read_all(sock).endswith(VALUE)


@pytest.mark.parametrize("lines", [("Connection: close",), ()])
def test_old_clients_are_served(server: Any, lines: tuple[str, ...]) -> None:
    """HTTP/1.0 is answered, and its connection closed."""
    sock = server.connect()
    head = server.head("POST", "/api/eval", f"Content-Length: {len(BODY)}", *lines)
    sock.sendall(head.replace(b"HTTP/1.1", b"HTTP/1.0") + BODY)
    assert server.read_all(sock).endswith(VALUE)


def test_a_client_that_leaves_with_requests_behind_cancels_the_first(server: Any, tmp_path: Path) -> None:
    """A connection that closes while one request runs and another waits ends the one that runs."""
    server.eval("left = None\n1")
    mark = tmp_path / "began"
    sock = server.connect()
    for body in (sleeper(mark), BODY):
        sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}") + body)
    until_there(mark)
    sock.close()
    assert server.eval("left", X_Venvd_Timeout="20") == "began"


# ---- clients that do not read


def peak(server: Any) -> int:
    """Bytes of memory that the server ever held at once."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def descriptors(server: Any) -> int:
    """How many files and sockets the server has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("size", [2_000, 20_000])
@pytest.mark.slow
def test_a_client_that_never_reads_is_ended(impatient_server: Any, size: int) -> None:
    """What it sends ahead and what it leaves unread is bounded, and after a while the connection is gone."""
    server = impatient_server
    assert server.eval("1") == 1
    body = json.dumps({"expression": f"'x' * {size}"}).encode()
    request = server.head("POST", "/api/eval", f"Content-Length: {len(body)}") + body
    before, sock = peak(server), server.connect()
    with pytest.raises(ConnectionError):
        for _ in range(20_000):  # more than any buffer between us takes
            sock.sendall(request * 100)
    assert peak(server) - before < 30 << 20
    assert server.eval("1") == 1


@pytest.mark.slow
def test_many_requests_sent_ahead_are_all_answered(server: Any) -> None:
    """Of a client that does read, wherever what is read at once ends: in a body, between two requests or in a head."""
    sock, many = server.connect(), 3000
    request = server.head("POST", "/api/eval", f"Content-Length: {len(BODY)}") + BODY
    sender = threading.Thread(target=sock.sendall, args=(request * many,))
    sender.start()
    answered, kept = 0, b""
    while answered < many:
        part = sock.recv(1 << 20)
        assert part, f"{answered} answers, then {kept[-300:]!r}"
        kept += part
        answered += kept.count(VALUE)
        kept = kept[kept.rfind(VALUE) + len(VALUE) :] if VALUE in kept else kept
    sender.join()


@pytest.mark.slow
def test_an_answer_that_is_never_read(impatient_server: Any) -> None:
    """One answer that does not fit between us ends the connection too, if its client does not read it."""
    server = impatient_server
    body = json.dumps({"expression": "'x' * 15_000_000"}).encode()
    assert server.eval("1") == 1
    until, before = time.monotonic() + 60, descriptors(server)
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}") + body)
    sock.recv(1, socket.MSG_PEEK)  # waits until the answer comes, and takes nothing of it
    while descriptors(server) > before:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_client_that_reads_slowly_is_served(start_server: Any) -> None:
    """As long as something of an answer goes out, a connection stays, however long that takes."""
    server = start_server(stall_timeout="2")
    body = json.dumps({"expression": "'x' * 8_000_000"}).encode()
    sock = server.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}", "Connection: close") + body)
    received = 0
    while part := sock.recv(400_000):
        received += len(part)
        time.sleep(0.04)
    assert received > 8_000_000


# ---- heads that repeat


def evaluated(server: Any, sock: Any, *pieces: bytes) -> Any:
    """The value that comes back for a request sent in these pieces, each of which is read before the next is sent."""
    for piece in pieces[:-1]:
        sock.sendall(piece)
        time.sleep(0.05)
    sock.sendall(pieces[-1])
    answer = server.read_until(sock, b"}")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    return json.loads(answer.partition(b"\r\n\r\n")[2])["value"]


def test_requests_with_the_same_head_have_their_own_bodies(server: Any) -> None:
    """A head that is sent again is the head of another request, whole, in pieces or behind a shorter one."""
    head = server.head("POST", "/api/eval", "Content-Length: 20")
    sock = server.connect()
    for number in range(3):
        assert evaluated(server, sock, head + b'{"expression":"%d+1"}' % number) == number + 1
    assert evaluated(server, sock, head, b'{"expression":"7+1"}') == 8
    assert evaluated(server, sock, head + b'{"expression"', b':"8+1"}') == 9
    assert evaluated(server, sock, head[:30], head[30:] + b'{"expression":"9+1"}') == 10
    assert evaluated(server, sock, head + b'{"expression":"1+1"}') == 2
    sock.close()


def test_requests_with_the_same_head_may_stand_behind_one_another(server: Any) -> None:
    """Two of them in one segment are two requests, answered in order."""
    request = server.head("POST", "/api/eval", "Content-Length: 20") + b'{"expression":"%d+1"}'
    sock = server.connect()
    assert evaluated(server, sock, request % 0) == 1
    sock.sendall(request % 1 + request % 2)
    answers = server.read_until(sock, b'{"value":3}')
    assert answers.index(b'{"value":2}') < answers.index(b'{"value":3}')
    sock.close()


def test_a_body_that_looks_like_a_head_is_none(server: Any) -> None:
    """What was sent as a body, and comes again as a request, is judged as a request: here it has no token."""
    body = b"POST /api/eval HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}"))
    time.sleep(0.05)
    sock.sendall(body)
    assert b" 400 " in server.read_until(sock, b"}").partition(b"\r\n")[0]
    sock.sendall(body)
    assert b" 401 " in server.read_until(sock, b"}").partition(b"\r\n")[0]
    sock.close()


def test_a_head_without_the_token_is_refused_each_time(server: Any) -> None:
    """Being refused once makes no head known."""
    request = b'POST /api/eval HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"expression":"1+1"}'
    sock = server.connect()
    for _ in range(3):
        sock.sendall(request)
        assert b" 401 " in server.read_until(sock, b"}").partition(b"\r\n")[0]
    sock.close()
