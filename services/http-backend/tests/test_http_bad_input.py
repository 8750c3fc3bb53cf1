"""Every fault of a request is answered with problem details, and the next request is answered."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

LIMIT = 300_000


@pytest.fixture(autouse=True)
def still_serves(server: Any) -> Any:
    """Whatever a test here did, the server answers afterwards."""
    yield
    assert server.eval("40 + 2") == 42


@pytest.mark.parametrize("number", ["nan", "inf", "1e999", "x", ""])
@pytest.mark.slow
def test_numbers_of_a_query(server: Any, number: str) -> None:
    """What JSON could not say is no number of a query either, and is not taken for an absent one."""
    problem = server.ask("GET", f"/v1/calls/none?wait={number}").problem
    assert (problem["code"], "takes a number" in problem["detail"]) == ("invalid_request", True)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"not json", "invalid_request", "not JSON"),
        (b"", "invalid_request", "expression"),
        (b"[1]", "invalid_request", "object"),
        (b'{"expression": 1}', "invalid_request", "expression"),
        (b'{"expression": "1"', "invalid_request", "not JSON"),
        (b'{"expression": "\xff"}', "invalid_request", "UTF-8"),
        (b'{"expression": "a", "locals": {"a": NaN}}', "invalid_request", "not JSON"),
        (b'{"expression": "a", "locals": {"a": {"$nothing": 1}}}', "invalid_request", "$nothing"),
        (b'{"expression": "a", "locals": {"a": {"$handle": "x"}}}', "handle_not_found", "handle"),
        (b'{"locals":' + b"[" * 100_000, "too_large", "nested"),
        (b'{"expression":"1","locals":{"a":' + b"[" * 150 + b"]" * 150 + b"}}", "too_large", "nested"),
    ],
)
def test_bad_bodies(server: Any, body: bytes, code: str, says: str) -> None:
    """A body that cannot be used is refused with what is wrong with it."""
    problem = server.ask("POST", "/api/eval", body).problem
    assert problem["code"] == code
    assert says in problem["detail"]


@pytest.mark.slow
def test_ten_megabytes_of_brackets(impatient_server: Any) -> None:
    """Deep nesting within the size limit is refused for its depth, at once."""
    assert impatient_server.ask("POST", "/api/eval", b"[" * 10_000_000).problem["code"] == "too_large"
    assert impatient_server.eval("1") == 1


@pytest.mark.parametrize("size", [LIMIT + 1, 5_000_000])
def test_a_body_over_the_limit_is_answered(server: Any, size: int) -> None:
    """A client that writes its whole body before it reads still gets to see why it was refused."""
    answer = server.ask("POST", "/api/eval", b" " * size)
    assert answer.status == 413
    assert str(LIMIT) in answer.problem["detail"]


def test_a_body_that_grows_over_the_limit_is_refused_while_it_comes(server: Any) -> None:
    """A chunked body has no length; it is refused by what has come."""
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", "Transfer-Encoding: chunked"))
    for _ in range(8):
        sock.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    sock.sendall(b"0\r\n\r\n")
    assert b"413" in server.read_until(sock, b"}").split(b"\r\n")[0]


def test_who_asks_first_is_spared_the_sending(server: Any) -> None:
    """With `Expect: 100-continue` a body that is too large is refused before it is sent."""
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {10**9}", "Expect: 100-continue"))
    assert server.read_until(sock, b"}").startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_an_endless_body_is_cut_off(server: Any) -> None:
    """A body far over the limit is not read to its end: the connection is closed."""
    sock = server.connect()
    sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {10**12}"))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        sock.sendall(b" " * (128 << 20))


@pytest.mark.parametrize(
    ("header", "value", "says"),
    [
        ("X_Venvd_Timeout", "soon", "X-Venvd-Timeout"),
        ("X_Venvd_Timeout", "-1", "more than 0"),
        ("X_Venvd_Timeout", "nan", "more than 0"),
        ("X_Venvd_Timeout", "inf", "more than 0"),
        ("X_Venvd_Values", "fancy", "tagged"),
        ("X_Venvd_Session", "no such session", "no session"),
        ("X_Venvd_Session", "\xff\xfe", "no session"),
    ],
)
def test_bad_headers(server: Any, header: str, value: str, says: str) -> None:
    """A header with a bad value is refused by its name."""
    answer = server.post("/api/eval", {"expression": "1"}, **{header: value})
    assert answer.status in {400, 404}
    assert says in answer.problem["detail"]


@pytest.mark.parametrize(
    ("fields", "header", "says"),
    [
        ({"sesion": "x"}, None, 'eval: the field "sesion" is unknown'),
        ({"local": {}}, None, 'is "locals" meant?'),
        ({"timeout": "1"}, None, '"timeout" takes a number of seconds'),
        ({"session": ["x"]}, None, '"session" takes a string'),
        ({"values": "fancy"}, None, 'values takes "plain" or "tagged"'),
        ({"session": "a"}, ("X_Venvd_Session", "b"), "the body says session 'a', and the header X-Venvd-Session 'b'"),
        ({}, ("X_Venvd_Sesion", "b"), 'the header "x-venvd-sesion" is unknown; is "x-venvd-session" meant?'),
    ],
)
def test_unknown_fields(server: Any, fields: dict[str, Any], header: tuple[str, str] | None, says: str) -> None:
    """A field or header that the server does not know, or cannot follow, is refused with the nearest one."""
    headers = {} if header is None else {header[0]: header[1]}
    for size in (1, 40_000):  # on the fast path and beside it
        problem = server.ask("POST", "/api/eval", {"expression": "1", **fields, "code": " " * size}, **headers).problem
        assert (problem["code"], says in problem["detail"]) == ("invalid_request", True), problem


@pytest.mark.parametrize(
    ("method", "target", "body", "says"),
    [
        ("GET", "/v1/calls/none?wayt=1", None, 'call.get: the field of the query "wayt" is unknown; is "wait" meant?'),
        ("GET", "/v1/handles?session=x", None, 'the field of the query "session" is unknown'),
        ("POST", "/api/eval?session=x", {"expression": "1"}, 'eval: the field of the query "session" is unknown'),
        ("GET", "/api/array?handleId=x&fromat=arrow", None, 'is "format" meant?'),
        ("POST", "/v1/sessions", {"nme": "x"}, 'session.create: the field "nme" is unknown; is "name" meant?'),
        ("POST", "/v1/sessions", {"limits": {"memory": 1}}, 'the limit "memory" is unknown; is "memoryBytes" meant?'),
        ("POST", "/v1/sessions/default/interrupt", {"force": True}, 'session.interrupt: the field "force" is unknown'),
        ("POST", "/v1/sessions/default/interrupt", [], "must be a JSON object"),
        ("POST", "/v1/calls", {"comand": "eval"}, 'call.start: the field "comand" is unknown; is "command" meant?'),
    ],
)
def test_unknown_fields_elsewhere(server: Any, method: str, target: str, body: Any, says: str) -> None:
    """Queries, and commands that the server answers itself, know their fields too."""
    problem = server.ask(method, target, body).problem
    assert (problem["code"], says in problem["detail"]) == ("invalid_request", True), problem


@pytest.mark.parametrize("path", ["/", "/api", "/api/evil", "/api/eval/", "/v2/sessions", "/docs/x", "/%ff", "/a%00b"])
def test_unknown_paths(server: Any, path: str) -> None:
    """A path that is nothing is 404 with problem details."""
    assert server.ask("GET", path).problem["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/eval", "POST"),
        ("DELETE", "/api/eval", "POST"),
        ("OPTIONS", "/api/eval", "POST"),
        ("PATCH", "/v1/sessions", "POST"),
        ("POST", "/health", "GET"),
        ("PUT", "/v1/handles", "GET"),
    ],
)
def test_wrong_methods(server: Any, method: str, path: str, allowed: str) -> None:
    """A known path with another method is 405 and says which ones it takes."""
    answer = server.ask(method, path)
    assert answer.status == 405
    assert allowed in answer.headers["allow"]
    assert answer.problem["code"] == "invalid_request"


@pytest.mark.parametrize(
    "data",
    [
        b"this is not HTTP\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET nowhere HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /api/eval HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /api/eval HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /ü HTTP/1.1\r\n\r\n".encode(),
    ],
)
def test_what_is_no_http(server: Any, data: bytes) -> None:
    """Bytes that are no HTTP are answered with a problem, and the connection is closed."""
    sock = server.connect()
    sock.sendall(data)
    answer = server.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "invalid_request"


def test_a_head_without_end(server: Any) -> None:
    """A request's head is bounded."""
    sock = server.connect()
    sock.sendall(b"GET /health HTTP/1.1\r\n")
    answer = b""
    try:
        for index in range(4000):
            sock.sendall(b"X-Filler-%d: %b\r\n" % (index, b"x" * 100))
        answer = server.read_all(sock)
    except (BrokenPipeError, ConnectionResetError):
        return
    assert b"too_large" in answer


def test_half_a_request_and_silence(server: Any) -> None:
    """Connections that say nothing more do not keep others from being served."""
    for data in (b"", b"POST /api/eval HT", server.head("POST", "/api/eval", "Content-Length: 100") + b'{"a'):
        server.connect().sendall(data)
    assert server.eval("1") == 1


def test_connections_that_come_and_go(server: Any) -> None:
    """A thousand connections opened and dropped leave nothing behind."""
    for _ in range(1000):
        socket.create_connection(("127.0.0.1", server.port), timeout=30).close()
    assert server.eval("1") == 1


def test_many_requests_on_one_connection(server: Any) -> None:
    """Requests that are sent before the answers are read are answered in their order."""
    sock = server.connect()
    count = 20
    for index in range(count):
        body = b'{"expression":"%d"}' % index
        sock.sendall(server.head("POST", "/api/eval", f"Content-Length: {len(body)}") + body)
    sock.sendall(server.head("GET", "/health", "Connection: close"))
    answers = server.read_all(sock)
    positions = [answers.index(b'{"value":%d}' % index) for index in range(count)]
    assert positions == sorted(positions)


OPEN = ("/health", "/livez", "/readyz")
GUARDED = ("/metrics", "/v1/sessions", "/v1/handles", "/api/eval", "/nowhere", "/venv/list")


def test_probes_need_no_token(server: Any) -> None:
    """Health, liveness and readiness are open."""
    for path in OPEN:
        answer = server.ask("GET", path, token=None)
        assert (answer.status, answer.json["status"]) == (200, "ok")


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("token", [None, "wrong", "secret-for-test", "secret-for-testsX", "ü"])
def test_everything_else_needs_one(server: Any, path: str, token: str | None) -> None:
    """Without the right token everything is 401, and says how a token is sent."""
    answer = server.ask("GET", path, token=token)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.problem["code"] == "unauthenticated"


def test_the_metrics_token_reads_metrics_only(server: Any) -> None:
    """A token of the scope `metrics` is known everywhere and enough nowhere else."""
    answer = server.ask("POST", "/api/eval", {"expression": "1"}, token="scrape-for-tests")
    assert answer.status == 403
    assert answer.problem["code"] == "forbidden"
