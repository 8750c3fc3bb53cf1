"""Pipe servers as processes, in front of real worker hosts."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60
TOKEN = "open sesame"


class Client:
    """A plain socket that speaks lines."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.lines = self.socket.makefile("rb")

    def send(self, command: str, payload: Any = None, **fields: Any) -> None:
        self.raw(json.dumps({"command": command, "payload": payload, **fields}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line, "the server closed the connection"
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def __call__(self, command: str, payload: Any = None, **fields: Any) -> dict[str, Any]:
        self.send(command, payload, **fields)
        return self.receive()

    def rest(self) -> bytes:
        """What comes until the server closes the connection."""
        came = b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.lines.read1(1 << 20):
                came += data
        return came

    def closed(self) -> bool:
        """Whether nothing more comes; what still comes is dropped."""
        with contextlib.suppress(ConnectionResetError):
            while self.lines.readline():
                pass
        return True

    def end(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


class PipedClient(Client):
    """A direct client whose lines go over pipes; what the server has to say comes over its socket, at the end."""

    def __init__(self, client: Client) -> None:
        self.socket = client.socket
        self.words = client.lines
        (read_requests, self.requests), (replies, write_replies) = os.pipe(), os.pipe()
        socket.send_fds(self.socket, [b'{"id":0,"command":"session.pipes"}\n'], [read_requests, write_replies])
        os.close(read_requests)
        os.close(write_replies)
        assert json.loads(self.words.readline()) == {"id": 0, "result": {"success": True}}
        self.lines = os.fdopen(replies, "rb")

    def raw(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self.requests, left) :]

    def receive(self) -> dict[str, Any]:
        line = self.lines.readline() or self.words.readline()
        assert line, "the session closed the pipe, and the server said nothing"
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def closed(self) -> bool:
        while self.lines.readline():
            pass
        return super().closed() and not self.words.readline()

    def end(self) -> None:
        if self.requests >= 0:
            os.close(self.requests)
        self.requests = -1

    def close(self) -> None:
        self.end()
        self.words.close()
        super().close()


@dataclass
class Server:
    """A running pipe server."""

    directory: Path
    process: subprocess.Popen[bytes]
    clients: list[Client] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.directory / "pipe.sock"

    def connect(self, token: str | None = TOKEN) -> Client:
        """A client that has shown the token; none is shown where it is None."""
        client = self.connect_once()
        if token is not None:
            client.send("ping", token=token)
            assert client.receive() == {"result": {"status": "ok"}}
        return client

    def connect_once(self) -> Client:
        client = Client(self.path)
        self.clients.append(client)
        return client

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.directory / "http.sock"))
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def listens(path: Path) -> bool:
    """Whether a server listens; the socket's file exists a moment before."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        probe.connect(str(path))
        return True
    return False


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from venvd_worker.archive import build

    return build(tmp_path_factory.mktemp("archive"))


@contextlib.contextmanager
def _warden(archive: Path, home: Path, shared: Path) -> Iterator[None]:
    """Run a warden whose sessions may write below `shared`, where tests meet with their code."""
    (home / "channel").mkdir()
    (home / "work").mkdir()
    command = [sys.executable, "-I", "-S", str(archive), "warden", "--channel", str(home / "channel")]
    process = subprocess.Popen([*command, "--work-dir", str(home / "work"), "--write", str(shared)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextlib.contextmanager
def _server(home: Path, settings: dict[str, str], *, ready: bool) -> Iterator[Server]:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (home / "channel").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "VENVD_CHANNEL": str(home / "channel"),
        "VENVD_SOCKET_DIR": str(home),
        "VENVD_TOKEN_SHA256": digest,
        "VENVD_GRACE": "3",
        "VENVD_STANDBY": "0",  # a refill takes descriptors while tests count them
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "venvd_pipe_backend"], env=environment)
    server = Server(home, process)
    try:
        until(lambda: listens(home / "http.sock"), "the server does not listen")
        if ready:
            until(lambda: server.get("/readyz")[0] == 200, "the server is not ready")
        yield server
    finally:
        for client in server.clients:
            client.close()
        process.terminate()
        process.wait(PATIENCE)


Start = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a server with settings of its own; without a worker where none is needed."""

    @contextlib.contextmanager
    def starting(*, worker: bool = False, **settings: str) -> Iterator[Server]:
        home = Path(tempfile.gettempdir()) / f"venvd-pipe-{secrets.token_hex(4)}"  # socket paths are short
        home.mkdir(mode=0o711)
        try:
            with contextlib.ExitStack() as stack:
                if worker:
                    shared = tmp_path_factory.getbasetemp()
                    stack.enter_context(_warden(request.getfixturevalue("archive"), home, shared))
                yield stack.enter_context(_server(home, settings, ready=worker))
        finally:
            shutil.rmtree(home)

    return starting


@pytest.fixture(scope="session")
def shared(start: Start) -> Iterator[Server]:
    """One server with a worker for every test that leaves it as it was."""
    with start(worker=True) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    while shared.clients:
        shared.clients.pop().close()
    assert shared.process.poll() is None


# ---- direct clients --------------------------------------------------------------------------------------------

CARRIER = {"lines": "socket"}
"""What carries the lines of direct clients that do not say it."""


@pytest.fixture(params=["socket", "pipes"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For facts that are those of both."""
    monkeypatch.setitem(CARRIER, "lines", request.param)


def attach(server: Server, session: str | None = None, *, by: str | None = None) -> Client:
    """A client whose connection is direct."""
    client = server.connect_once()
    reply = client("session.attach", {"id": session}, token=TOKEN)
    assert reply["result"]["id"] == (session or "default")
    if (by or CARRIER["lines"]) == "pipes":
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
    session_info: dict[str, Any] = client("session.get", {"id": session})["result"]
    return session_info


def metric(server: Server, name: str) -> float:
    _, body = server.get("/metrics", TOKEN)
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)
    return float(value)


def until_running(server: Server, session: str) -> Client:
    """Wait until the session runs a call; a client of the server that can interrupt it."""
    client = server.connect()
    until(lambda: info(client, session)["state"] == "busy", "nothing runs")
    return client
