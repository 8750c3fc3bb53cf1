"""`/api/array`: `.npy` out and in, streamed, whatever the client does."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Answer  # type: ignore[import-not-found]

ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
    np.zeros((0, 3), "c16"),
    np.array(7, "u1"),
    np.array(["a", "bcd"]),
    np.array(["2024-02-29", "NaT"], "M8[D]"),
    np.arange(3_000_000, dtype="f4").reshape(2, -1),
]
MB = 1 << 20


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    made = io.BytesIO()
    np.lib.format.write_array(made, array, version=version)
    return made.getvalue()


def handle(server: Any, expression: str) -> str:
    handle_id: str = server.post("/api/eval", {"expression": f"lambda: ({expression})"}).json["handleId"]
    answer = server.post("/api/call", {"handleId": handle_id, "methodName": "__call__"}).json
    return str(answer["handleId"])


def put(server: Any, array: Any, **headers: str) -> str:
    answer = server.ask("PUT", "/api/array", npy(array), **headers)
    assert answer.status == 200, answer.body
    return str(answer.json["handleId"])


def get(server: Any, handle_id: str, **headers: str) -> Any:
    answer = server.ask("GET", f"/api/array?handleId={handle_id}", **headers)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/x-npy"
    return np.load(io.BytesIO(answer.body), allow_pickle=False)


def memory(pid: int) -> int:
    """Bytes of a process's own memory, without segments: they look private until the session maps them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_an_array_goes_there_and_back(server: Any, array: Any) -> None:
    """What is put is got with the same elements, type, shape and order."""
    back = get(server, put(server, array))
    assert (back.dtype, back.shape, back.flags.f_contiguous) == (array.dtype, array.shape, array.flags.f_contiguous)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read(server: Any, version: tuple[int, int]) -> None:
    """Headers of 1.0, 2.0 and 3.0 are understood."""
    np.testing.assert_array_equal(get(server, put_version(server, version)), [1.5, 2.5])


def put_version(server: Any, version: tuple[int, int]) -> str:
    return str(server.ask("PUT", "/api/array", npy(np.array([1.5, 2.5]), version)).json["handleId"])


def test_what_is_put_is_an_array_of_the_session(server: Any) -> None:
    """The handle of an array that came in is an ordinary one, and the array can be written to."""
    handle = put(server, np.arange(100_000))
    value = server.post("/api/eval", {"expression": "a[0] = 5; int(a.sum())", "locals": {"a": {"$handle": handle}}})
    assert value.json["value"] == sum(range(100_000)) + 5
    assert server.post("/api/dispose", {"handleId": handle}).json == {"success": True}
    assert server.ask("GET", f"/api/array?handleId={handle}").problem["code"] == "handle_not_found"


@pytest.mark.needs("curl")
def test_curl_and_numpy_load_are_a_client(server: Any, tmp_path: Path) -> None:
    """A file that numpy saved goes up with curl, and comes down as one that numpy loads."""
    array = np.random.default_rng(1).random((500, 1000))
    np.save(tmp_path / "in.npy", array)
    url = f"http://127.0.0.1:{server.port}/api/array"
    curl = ["curl", "--silent", "--show-error", "--fail", "-H", f"Authorization: Bearer {server.token}"]
    for how in ([], ["-H", "Transfer-Encoding: chunked"]):
        said = subprocess.run([*curl, *how, "-T", tmp_path / "in.npy", url], capture_output=True, check=True)
        handle_id = json.loads(said.stdout)["handleId"]
        subprocess.run([*curl, "-o", tmp_path / "out.npy", f"{url}?handleId={handle_id}"], check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), array)


def test_head_says_how_large_it_is(server: Any) -> None:
    """`HEAD` has the length and no body."""
    handle = put(server, np.zeros(100_000))
    answer = server.ask("HEAD", f"/api/array?handleId={handle}")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == 800_128


def test_a_session_is_named_by_its_header(server: Any) -> None:
    """An array belongs to the session of the request; another session does not know its handle."""
    made = server.post("/v1/sessions", {}).json["id"]
    handle = put(server, np.arange(20_000), X_Venvd_Session=made)
    assert get(server, handle, X_Venvd_Session=made).sum() == sum(range(20_000))
    assert server.ask("GET", f"/api/array?handleId={handle}").problem["code"] == "handle_not_found"
    server.ask("DELETE", f"/v1/sessions/{made}")


def test_a_timeout_is_kept(server: Any) -> None:
    """The time of `X-Venvd-Timeout` holds for what the session has to do."""
    slow = "type('Slow', (), {'__array__': lambda self, *a, **k: __import__('time').sleep(30)})()"
    answer = server.ask("GET", f"/api/array?handleId={handle(server, slow)}", X_Venvd_Timeout="0.2")
    assert answer.status == 504
    assert answer.problem["code"] == "timeout"
    assert server.eval("1") == 1


@pytest.mark.parametrize("expression", ["[object()]", "type('X', (), {})()", "__import__('os')"])
def test_what_is_no_array_is_refused(server: Any, expression: str) -> None:
    """Objects that numpy sees as no array of fixed size are a 400 that says so."""
    answer = server.ask("GET", f"/api/array?handleId={handle(server, expression)}")
    assert answer.status == 400
    assert "cannot travel" in answer.problem["detail"]


@pytest.mark.parametrize("query", ["", "?", "?handle=x", "?handleId=a&handleId=b"])
def test_the_handle_must_be_named(server: Any, query: str) -> None:
    """Without one handle the answer is a 400 that shows how it is named."""
    answer = server.ask("GET", f"/api/array{query}")
    assert answer.status == 400
    assert "handleId" in answer.problem["detail"]


def test_strangers_get_nothing(server: Any) -> None:
    """Without the token both ways are 401."""
    assert server.ask("GET", "/api/array?handleId=x", token=None).status == 401
    assert server.ask("PUT", "/api/array", npy(np.zeros(9)), token="wrong").status == 401


def test_other_methods_are_told_which_there_are(server: Any) -> None:
    """`POST` is a 405 that names `GET` or `PUT`."""
    answer = server.ask("POST", "/api/array", b"")
    assert answer.status == 405
    assert answer.headers["allow"] in {"GET", "PUT", "GET, PUT"}


GOOD = npy(np.arange(1000.0))
BAD = {
    "nothing": (b"", "within the .npy header"),
    "another format": (b"PK\3\4" + bytes(100), "must begin with"),
    "a header without end": (GOOD[:40], "within the .npy header"),
    "version 9": (GOOD[:6] + b"\x09" + GOOD[7:], "9.0"),
    "one byte less": (GOOD[:-1], "8000 bytes, and there are 7999"),
    "one byte more": (GOOD + b"x", "8000 bytes, and there are 8001"),
    "objects": (npy(np.zeros(3)).replace(b"<f8", b"|O\x20"), "no dtype"),
    "fields": (npy(np.zeros(3, [("a", "f8")])), "structured"),
    "a shape that is none": (GOOD.replace(b"(1000,)", b"(-100,)"), "whole numbers"),
    "a shape without end": (GOOD.replace(b"(1000,), }          ", b"(1000000000000000,)}"), "takes"),
    "code": (GOOD.replace(b"(1000,)", b"exit(1)"), "no dictionary of literals"),
}


@pytest.mark.parametrize("body", BAD)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_bodies_that_are_wrong(server: Any, body: str, chunked: bool) -> None:
    """A body that is no array of its length is a 400, or a 422 where it is too large, and says what is wrong."""
    data, says = BAD[body]
    answer = chunked_put(server, data) if chunked else server.ask("PUT", "/api/array", data)
    assert answer.status in {400, 422}, answer.body
    assert says in answer.problem["detail"]
    assert server.eval("1") == 1


def chunked_put(server: Any, data: bytes) -> Answer:
    """`data` in chunks of odd sizes."""
    parts, at = [], 0
    for size in (1, 5, 7, 40, 100, 3000, 100_000):
        parts.append(data[at : at + size])
        at += size
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part]
    sock = server.connect()
    sock.sendall(server.head("PUT", "/api/array", "Transfer-Encoding: chunked") + b"".join(chunks) + b"0\r\n\r\n")
    head, _, body = bytes(server.read_until(sock, b"}")).partition(b"\r\n\r\n")
    lines = [line.lower().split(": ") for line in head.decode().split("\r\n")[1:]]
    return Answer(int(head[9:12]), dict(lines), body)


def test_a_refused_body_leaves_the_connection_usable(server: Any) -> None:
    """The next request on the same connection is answered, though the body before it was not wanted."""
    sock = server.connect()
    wrong = b"PK" + bytes(3 * MB)
    for _ in range(3):
        sock.sendall(server.head("PUT", "/api/array", f"Content-Length: {len(wrong)}") + wrong)
        assert server.read_until(sock, b"}").startswith(b"HTTP/1.1 400")
    sock.sendall(server.head("GET", "/health"))
    assert b'{"status":"ok"}' in server.read_until(sock, b"}")


def test_a_length_that_does_not_fit_is_told_at_once(server: Any) -> None:
    """With the header there, a Content-Length that is not the array's is refused before the bytes have come."""
    sock = server.connect()
    sock.sendall(server.head("PUT", "/api/array", "Content-Length: 5000") + GOOD[:200])
    assert b"8000 bytes, and there are 4872" in server.read_until(sock, b"}")


def test_an_array_over_the_limit_is_refused_before_it_comes(server: Any) -> None:
    """`arrayBytes` is named, and none of the bytes is waited for."""
    made = server.post("/v1/sessions", {"limits": {"arrayBytes": MB}}).json["id"]
    sock = server.connect()
    head = server.head("PUT", "/api/array", f"Content-Length: {128 + 8 * MB}", f"X-Venvd-Session: {made}")
    sock.sendall(head + npy(np.zeros(MB))[:128])
    said = server.read_until(sock, b"}")
    assert said.startswith(b"HTTP/1.1 422")
    assert b"arrayBytes" in said
    server.ask("DELETE", f"/v1/sessions/{made}")


@pytest.mark.slow
def test_a_body_that_stops_is_given_up(impatient_server: Any) -> None:
    """After the stall timeout an unfinished array is a 400, and its memory is the session's again."""
    server = impatient_server
    begun = server.head("PUT", "/api/array", f"Content-Length: {128 + MB}") + npy(np.zeros(MB // 8))[:5000]
    size = len(begun) - begun.index(b"\x93NUMPY")
    socks = [server.connect() for _ in range(60)]  # nearly as many as a session has segments
    for sock in socks:
        sock.sendall(begun)
    assert all(f"stopped after {size} bytes".encode() in server.read_all(sock) for sock in socks)
    handles = [put(server, np.zeros(MB // 8)) for _ in range(60)]
    assert len(set(handles)) == 60


@pytest.mark.slow
def test_clients_that_leave_midway_leave_nothing(server: Any) -> None:
    """Uploads and downloads cut in the middle, many times over, take no memory of the session with them."""
    handle = put(server, np.zeros(4 * MB))
    for _ in range(70):  # more than a session has segments
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(server.head("GET", f"/api/array?handleId={handle}"))
            sock.recv(1000)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(server.head("PUT", "/api/array", f"Content-Length: {128 + 8 * MB}") + npy(np.zeros(MB))[:MB])
    until(lambda: server.ask("PUT", "/api/array", npy(np.zeros(MB))).status == 200, "memory was not given back")
    assert get(server, handle).shape == (4 * MB,)


@pytest.mark.slow
def test_an_array_whose_session_ends_breaks_off(server: Any) -> None:
    """Out: fewer bytes than were announced, and no failure of the server in its log; in: the client is told."""
    server.post("/v1/sessions", {"name": "ends"})
    handle = put(server, np.ones(4 * MB), **{"X-Venvd-Session": "ends"})
    logged = server.log.stat().st_size
    with server.connect() as sock:
        sock.sendall(server.head("GET", f"/api/array?handleId={handle}", "X-Venvd-Session: ends"))
        server.read_until(sock, b"\r\n\r\n")
        server.post("/v1/sessions/ends/reset")
        with contextlib.suppress(ConnectionResetError):
            assert len(server.read_all(sock)) < 32 * MB
    broken_off = b"a response broke off: the session's process ended"
    until(lambda: broken_off in server.log.read_bytes()[logged:], "nothing was logged")
    body, before = npy(np.ones(4 * MB)), calls(server, "ends")
    with server.connect() as sock:
        lines = (f"Content-Length: {len(body)}", "X-Venvd-Session: ends")
        sock.sendall(server.head("PUT", "/api/array", *lines) + body[: 8 * MB])
        until(lambda: calls(server, "ends") > before, "no memory was asked for")
        server.post("/v1/sessions/ends/reset")
        sock.sendall(body[8 * MB :] + server.head("GET", "/health", "Connection: close"))
        assert b'"session_lost"' in server.read_all(sock)
    assert b"Traceback" not in server.log.read_bytes()[logged:]
    server.ask("DELETE", "/v1/sessions/ends")


def calls(server: Any, session: str) -> int:
    """How many a session has answered."""
    return int(server.ask("GET", f"/v1/sessions/{session}").json["calls"])


@pytest.mark.long
@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut(impatient_server: Any) -> None:
    """A client that leaves an array unread loses its connection after the stall timeout; others are still served."""
    server = impatient_server
    handle = put(server, np.zeros(8 * MB))
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    sock = server.connect()
    sock.sendall(server.head("GET", f"/api/array?handleId={handle}"))
    assert get(server, handle).shape == (8 * MB,)
    until(lambda: len(list(descriptors.iterdir())) <= before, "the connection is still there")
    assert len(server.read_all(sock)) < 64 * MB


@pytest.mark.slow
def test_large_arrays_take_no_memory_of_the_server(server: Any) -> None:
    """300 MB out and in, to a slow reader too, and the server itself grows by a few of them at most."""
    made = put(server, np.zeros(1000))
    before = memory(server.process.pid)
    big = handle(server, "__import__('numpy').ones(300_000_000 // 8)")
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(server.head("GET", f"/api/array?handleId={big}"))
        slow.recv(1000)
        assert get(server, made).shape == (1000,)
        assert memory(server.process.pid) - before < 32 * MB
        drained(slow, 299_000_000)
    head = npy(np.zeros(0)).replace(b"(0,), }       ", b"(37500000,), }")
    sock = server.connect()
    sock.sendall(server.head("PUT", "/api/array", "Content-Length: 300000128") + head)
    piece = np.ones(125_000).tobytes()
    for _ in range(300):
        sock.sendall(piece)
        assert memory(server.process.pid) - before < 32 * MB
    assert b"handleId" in server.read_until(sock, b"}")


def drained(sock: socket.socket, size: int) -> None:
    """Read until that many bytes have come."""
    while size > 0:
        part = sock.recv(MB)
        assert part
        size -= len(part)


def test_the_schema_has_both(server: Any) -> None:
    """The schema describes the binary bodies and what names the array."""
    path = server.ask("GET", "/openapi.json").json["paths"]["/api/array"]
    assert path["get"]["parameters"][0]["name"] == "handleId"
    assert path["get"]["responses"]["200"]["content"]["application/x-npy"]["schema"]["format"] == "binary"
    assert path["put"]["requestBody"]["content"]["application/x-npy"]["schema"]["format"] == "binary"
    assert "handleId" in json.dumps(server.ask("GET", "/openapi.json").json["components"]["schemas"]["Handle"])
