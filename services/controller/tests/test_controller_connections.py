"""Slow and silent clients of a controller that runs as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow

PATIENCE = 120
Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """Connects to a controller that waits one second for a client."""
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    environment |= {"VENVD_HOME": str(home), "VENVD_PORT": "0", "VENVD_ENGINE": "local", "VENVD_STALL_TIMEOUT": "1"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "venvd_controller"], env=environment, cwd=home, stderr=log)
    try:
        address = urlsplit(url_of(home, process))
        yield lambda: socket.create_connection((address.hostname or "", address.port or 0), PATIENCE)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def url_of(home: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + PATIENCE
    while not (home / "url").exists():
        assert process.poll() is None, (home / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    return (home / "url").read_text().strip()


def read_all(client: socket.socket) -> bytes:
    """What comes until the controller closes the connection."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nX: "])
def test_a_silent_client_is_cut_off(connect: Connect, sent: bytes) -> None:
    """A client that says nothing, or stops within the head of its request, loses its connection."""
    with connect() as client:
        client.sendall(sent)
        assert read_all(client) == b""


def test_a_head_without_end_is_cut_off(connect: Connect) -> None:
    """A client that sends its head without end loses its connection, and may read why."""
    with connect() as client, pytest.raises(ConnectionError):
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        while True:
            client.sendall(b"X-Filler: " + b"x" * 10_000 + b"\r\n")


def test_a_body_that_stops_is_refused(connect: Connect) -> None:
    """A client that stops within the body of its request gets an answer: here a refusal, since it has no token."""
    with connect() as client:
        client.sendall(b"PUT /v1/venvs/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")
