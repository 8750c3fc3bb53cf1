"""What HTTP adds to files: ranges, the end of a client, bodies without a length, and what is counted."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

FOLDER = "/v1/sessions/default/files"
BIG = 32 << 20


@pytest.fixture
def big(server: Any) -> str:
    """A file that no buffer of a connection holds."""
    server.eval(f"f = open('big', 'wb'); f.truncate({BIG}); f.close()")
    return f"{FOLDER}/big"


def counted(server: Any, command: str, outcome: str) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    match = re.search(rf'^venvd_requests_total{{command="{command}",outcome="{outcome}"}} (.+)$', text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def until(holds: Any, what: str) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("asked", "status", "shown", "body"),
    [
        ("bytes=0-3", 206, "bytes 0-3/10", b"0123"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=5-100", 206, "bytes 5-9/10", b"56789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("bytes=3-1", 200, None, b"0123456789"),
        ("bytes=-3", 200, None, b"0123456789"),
        ("bytes=0-1,4-5", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_ranges(server: Any, asked: str, status: int, shown: str | None, body: bytes) -> None:
    """One range from an offset on is answered with it; ranges of other kinds with the whole file, as may be done."""
    server.ask("PUT", f"{FOLDER}/ten", b"0123456789")
    answer = server.ask("GET", f"{FOLDER}/ten", Range=asked)
    assert (answer.status, answer.headers.get("content-range"), answer.body) == (status, shown, body)
    assert answer.headers["content-length"] == str(len(body))


def test_the_tag_changes_with_the_file(server: Any) -> None:
    """A file that was written anew has another entity tag."""
    tags = []
    for body in (b"one", b"three"):
        server.ask("PUT", f"{FOLDER}/tagged", body)
        tags.append(server.ask("GET", f"{FOLDER}/tagged").headers["etag"])
    assert tags[0] != tags[1]


def test_a_client_that_goes_away(server: Any, big: str) -> None:
    """A download whose client closes its connection ends, and is counted as cancelled."""
    before = counted(server, "file.get", "cancelled")
    sock = server.connect()
    sock.sendall(f"GET {big} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    sock.close()
    until(lambda: counted(server, "file.get", "cancelled") == before + 1, "the download goes on")


@pytest.mark.slow
def test_what_moves_is_counted(server: Any, big: str) -> None:
    """Bytes of files are counted with those of replies and requests."""

    def total(name: str) -> float:
        match = re.search(rf"^{name}_total (.+)$", server.ask("GET", "/metrics").body.decode(), re.MULTILINE)
        assert match
        return float(match[1])

    out, into = total("venvd_response_bytes"), total("venvd_request_bytes")
    assert len(server.ask("GET", big).body) == BIG
    server.ask("PUT", f"{FOLDER}/sent", b"x" * 100_000)
    until(lambda: total("venvd_response_bytes") - out >= BIG, "what was fetched is not counted")
    until(lambda: total("venvd_request_bytes") - into >= 100_000, "what was sent is not counted")
    assert counted(server, "file.put", "ok") >= 1


def test_refusals_leave_the_connection_usable(server: Any) -> None:
    """A file that is refused while it comes is answered, and the connection takes the next request."""
    sock = server.connect()
    head = f"Host: x\r\nAuthorization: Bearer {server.token}\r\n"
    body = b"y" * 2_000_000
    sock.sendall(f"PUT {FOLDER}/../x HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    sock.sendall(f"GET /health HTTP/1.1\r\n{head}\r\n".encode())
    received = b""
    while b'"ok"' not in received:
        piece = sock.recv(65536)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_no_token_no_files(server: Any) -> None:
    """Files are behind the token like everything else."""
    for method in ("GET", "PUT", "DELETE"):
        assert server.ask(method, f"{FOLDER}/a", token=None).problem["code"] == "unauthenticated"
