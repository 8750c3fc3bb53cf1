"""Access keys over HTTP: they are accepted beside the token, and end the connections that use them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from harness.access_keys import write_keys

from .conftest import Server, Starter  # type: ignore[import-not-found]

KEY = "vk_caller"
LOOPS = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.01)"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keyed(starter: Starter, keys: Path) -> Server:
    """A server with a key file."""
    write_keys(keys)
    return starter.start(keys_file=str(keys))


def allow(server: Server, keys: Path) -> None:
    """Give the server the key, and wait until it accepts it."""
    write_keys(keys, KEY)
    end = time.monotonic() + 60
    while server.ask("POST", "/api/eval", {"expression": "1"}, token=KEY).status != 200:
        assert time.monotonic() < end


@pytest.mark.parametrize("path", ["/api/eval", "/v1/sessions"])
def test_a_revoked_key_ends_its_kept_connection(keyed: Server, keys: Path, path: str) -> None:
    """A connection that is kept alive ends without a further request, on the fast path and beside it."""
    allow(keyed, keys)
    sock = keyed.connect()
    body = b'{"expression": "2"}' if path == "/api/eval" else b""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n"
    for _ in range(2):
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert keyed.read_until(sock, b"}").startswith(b"HTTP/1.1 200")
    write_keys(keys)
    with contextlib.suppress(ConnectionResetError):
        keyed.read_all(sock)
    assert keyed.ask("POST", "/api/eval", {"expression": "1"}, token=KEY).status == 401


def test_a_revoked_key_ends_its_event_stream(keyed: Server, keys: Path) -> None:
    """A call that streams its output ends with its key, and the session serves others."""
    allow(keyed, keys)
    sock = keyed.connect()
    body = b'{"code": "' + LOOPS.replace("\n", "\\n").encode() + b'"}'
    head = "POST /api/exec HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n"
    sock.sendall(f"{head}Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    keyed.read_until(sock, b"begun")
    write_keys(keys)
    assert keyed.eval("1 + 1") == 2
    assert f'the key \\"{KEY}\\" was revoked' in keyed.log.read_text()
