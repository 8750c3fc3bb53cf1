"""A whole backend for the tests: the real warden and the real server, each a process of its own."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
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
from harness.ports import free_port

from venvd_worker import archive

TOKEN, METRICS_TOKEN = "secret-for-tests", "scrape-for-tests"
PATIENCE = 120.0
"""Seconds for an answer, on a busy machine too."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The body, which must be problem details that fit the status."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        fields: dict[str, Any] = self.json
        assert fields["status"] == self.status
        assert {"type", "title", "detail", "code"} <= fields.keys()
        return fields


@dataclass
class Server:
    """One server with its worker host, and short words for talking to it."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    token: str | None
    sockets: list[socket.socket] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = "", **headers: str) -> Answer:
        """One request on a connection of its own; `X_Venvd_Session="a"` is a header."""
        token = self.token if token == "" else token
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, payload, fields)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.ask("POST", path, {} if body is None else body, **headers)

    def eval(self, expression: str, **headers: str) -> Any:
        answer = self.post("/api/eval", {"expression": expression}, **headers)
        assert answer.status == 200, answer.body
        return answer.json["value"]

    def connect(self) -> socket.socket:
        """A bare connection; it is closed at the end of the tests."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self.sockets.append(sock)
        return sock

    def head(self, method: str, path: str, *lines: str) -> bytes:
        every = [f"{method} {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {self.token}", *lines]
        return "\r\n".join([*every, "", ""]).encode("latin-1")

    @staticmethod
    def read_all(sock: socket.socket) -> bytes:
        """Everything until the server closes the connection."""
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)

    @staticmethod
    def read_until(sock: socket.socket, end: bytes) -> bytes:
        """What comes, up to `end` and perhaps a little more."""
        received = b""
        while end not in received:
            part = sock.recv(65536)
            assert part, received
            received += part
        return received

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


StartServer = Callable[..., Server]


class Starter:
    """Starts backends; ends them all. User code may write below `shared`, where tests meet with it."""

    def __init__(self, directory: Path, shared: Path) -> None:
        self.directory = directory
        self.shared = shared
        self.servers: list[Server] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def warden(self, number: int) -> Path:
        channel, work = self.directory / f"c{number}", self.directory / f"w{number}"
        channel.mkdir()
        work.mkdir()
        pyz = archive.build(self.directory / "archive")
        command = [sys.executable, "-I", "-S", pyz, "warden", "--channel", channel]
        self.processes.append(
            subprocess.Popen([*command, "--work-dir", work, "--write", self.shared], stderr=subprocess.DEVNULL)
        )
        return channel

    def start(self, token: str | None = TOKEN, **settings: str) -> Server:
        number = len(self.servers)
        port = free_port()
        environment = {
            **os.environ,
            "VENVD_CHANNEL": str(self.warden(number)),
            "VENVD_HOST": "127.0.0.1",
            "VENVD_PORT": str(port),
            "VENVD_GRACE": "3",
            "VENVD_ACCEPT_TIMEOUT": str(PATIENCE),  # a busy machine takes long to make the schema, which needs no token
            "VENVD_METRICS_TOKEN_SHA256": digest(METRICS_TOKEN),
            **({"VENVD_NO_TOKEN": "1"} if token is None else {"VENVD_TOKEN_SHA256": digest(token)}),
            **{f"VENVD_{name.upper()}": value for name, value in settings.items()},
        }
        log = self.directory / f"log{number}"
        with log.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-m", "venvd_http_backend"], env=environment, stderr=stderr)
        server = Server(port, process, log, token)
        self.servers.append(server)
        self.processes.append(process)
        self._wait(server)
        return server

    def _wait(self, server: Server) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            assert server.process.poll() is None, server.log.read_text()
            try:
                if server.ask("GET", "/readyz").status == 200:
                    return
            except OSError:
                pass
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        for server in self.servers:
            for sock in server.sockets:
                sock.close()
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with tempfile.TemporaryDirectory(prefix="venvd-") as directory:
        server_starter = Starter(Path(directory), tmp_path_factory.getbasetemp())
        try:
            yield server_starter
        finally:
            server_starter.stop()


@pytest.fixture(scope="session")
def server(starter: Starter) -> Server:
    """The server that most tests share."""
    return starter.start(log_level="debug", max_body="300000")


@pytest.fixture(scope="session")
def impatient_server(starter: Starter) -> Server:
    """A server that waits one second for a client in the middle of something."""
    return starter.start(stall_timeout="1")


@pytest.fixture(scope="session")
def open_server(starter: Starter) -> Server:
    """A server without a token."""
    return starter.start(token=None)


@pytest.fixture(scope="session")
def start_server(starter: Starter) -> StartServer:
    """Starts another one, with settings of its own."""
    return starter.start
