"""gRPC servers as processes, in front of real worker hosts."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness.ports import free_port

from venvd_proto.v1 import python_service_pb2_grpc, session_service_pb2_grpc

PATIENCE = 60
TOKEN = "open sesame"
METADATA = (("authorization", f"Bearer {TOKEN}"),)


@dataclass
class Server:
    """A running gRPC server and a channel to it."""

    port: int
    http_port: int
    process: subprocess.Popen[bytes]
    channel: grpc.Channel

    @property
    def python(self) -> Any:
        return python_service_pb2_grpc.PythonServiceStub(self.channel)

    @property
    def sessions(self) -> Any:
        return session_service_pb2_grpc.SessionServiceStub(self.channel)

    def http(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=PATIENCE)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        text = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, text, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = "json" in response.headers["content-type"]
        return response.status, json.loads(content) if is_json else content


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
def warden(archive: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    for name in ("channel", "work"):
        (home / name).mkdir(exist_ok=True)
    command = [sys.executable, "-I", "-S", str(archive), "warden", "--channel", str(home / "channel")]
    process = subprocess.Popen([*command, "--work-dir", str(home / "work")])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextlib.contextmanager
def serve(home: Path, credentials: grpc.ChannelCredentials | None, settings: dict[str, str]) -> Iterator[Server]:
    port, http_port = free_port(), free_port()
    (home / "channel").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "VENVD_CHANNEL": str(home / "channel"),
        "VENVD_HOST": "127.0.0.1",
        "VENVD_PORT": str(port),
        "VENVD_HTTP_PORT": str(http_port),
        "VENVD_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "VENVD_GRACE": "3",
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "venvd_rpc_backend"], env=environment)
    address = f"localhost:{port}"
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    server = Server(port, http_port, process, channel)
    try:
        until(lambda: listens(server), "the server does not listen")
        yield server
    finally:
        channel.close()
        process.terminate()
        process.wait(PATIENCE)


def listens(server: Server) -> bool:
    assert server.process.poll() is None, "the server ended"
    try:
        return server.http("GET", "/health", token=None)[0] == 200
    except OSError:
        return False


def is_ready(server: Server) -> bool:
    return server.http("GET", "/readyz")[0] == 200


Start = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a server with settings of its own; with a worker it is ready."""

    @contextlib.contextmanager
    def starting(
        *, worker: bool = False, credentials: grpc.ChannelCredentials | None = None, **settings: str
    ) -> Iterator[Server]:
        home = tmp_path_factory.mktemp("rpc")
        with contextlib.ExitStack() as stack:
            if worker:
                stack.enter_context(warden(request.getfixturevalue("archive"), home))
            server = stack.enter_context(serve(home, credentials, settings))
            if worker:
                until(lambda: is_ready(server), "the server is not ready")
            yield server

    return starting


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Server]:
    """One server with a worker for every test that leaves it as it was."""
    with start(worker=True) as running:
        yield running
