"""Access keys over HTTP: they are accepted beside the token, and end the connections that use them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from pathlib import Path

import pytest
from harness.access_keys import write_keys

from .conftest import Server, Starter  # type: ignore[import-not-found]

KEY = "vk_caller"
NAME = "demo"
LOOPS = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.01)"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keyed(starter: Starter, keys: Path) -> Server:
    """A server with a key file."""
    write_keys(keys)
    return starter.start(keys_file=str(keys), name=NAME)


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


def test_the_log_of_calls_names_the_key(keyed: Server, keys: Path) -> None:
    """A line names the key, or the backend's own token, on the fast path, beside it, and for venvs."""
    allow(keyed, keys)
    before = len(keyed.log.read_text())
    for token in (KEY, keyed.token):
        for path in ("/api/eval", "/api/tofloatarray", "/venv/create"):
            assert keyed.ask("POST", path, {}, token=token).status >= 400
    lines = [json.loads(line) for line in keyed.log.read_text()[before:].splitlines()]
    named = [(line["command"], line["key"]) for line in lines if line["logger"] == "venvd.call"]
    commands = ("eval", "tofloatarray", "venv.create")
    assert named == [(command, key) for key in (KEY, f"backend:{NAME}") for command in commands]


def test_a_rotated_token_ends_its_kept_connection(keyed: Server, keys: Path) -> None:
    """A connection of the older token serves until the end of that, and the new token works without a restart."""
    sock = keyed.connect()
    head = f"GET /v1/sessions HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {keyed.token}\r\n\r\n".encode()
    sock.sendall(head)
    assert keyed.read_until(sock, b"}").startswith(b"HTTP/1.1 200")
    write_keys(keys, own={keyed.token: dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), "new": None})
    assert keyed.ask("POST", "/api/eval", {"expression": "1"}, token="new").status == 200
    sock.sendall(head)
    assert keyed.read_until(sock, b"}").startswith(b"HTTP/1.1 200")
    write_keys(keys, own={keyed.token: dt.datetime.now(dt.UTC), "new": None})
    with contextlib.suppress(ConnectionResetError):
        keyed.read_all(sock)
    refused = keyed.ask("POST", "/api/eval", {"expression": "1"})
    assert (refused.status, b"was rotated" in refused.body) == (401, True)
    write_keys(keys, KEY, own={keyed.token: None})
    assert keyed.ask("POST", "/api/eval", {"expression": "1"}, token=KEY).status == 200  # it has read the file
    assert keyed.eval("1 + 1") == 2
