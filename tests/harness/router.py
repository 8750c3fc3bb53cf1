"""A router in front of real replicas, each a process of its own."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import venvd
from harness.ports import free_port
from harness.stack import Running, Stack, fetch
from harness.waiting import TIMEOUT, wait_until

TOKEN, METRICS_TOKEN = "secret-for-tests", "scrape-for-tests"
NAMES = [f"name-{number}" for number in range(8)]
"""Of sessions; some live on each of two replicas."""


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Router:
    """A running router, the file that it watches, and short words for talking to it."""

    kind: str
    port: int
    http_port: int
    keys: Path
    log: Path
    process: subprocess.Popen[bytes]
    replicas: list[dict[str, Any]]
    secure: bool = False

    @property
    def url(self) -> str:
        scheme = {"http": "http", "rpc": "grpc"}[self.kind] + ("s" if self.secure else "")
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def probe_url(self) -> str:
        if self.kind == "rpc":
            return f"http://127.0.0.1:{self.http_port}"
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    def write(self, replicas: list[dict[str, Any]], names: int = 2) -> None:
        """Replace the table, and return once the router has read it."""
        before = self.read_metric("venvd_router_tables_total")
        write_keys(self.keys, replicas, names)
        wait_until(lambda: self.read_metric("venvd_router_tables_total") > before, "the table is old")

    def read_metric(self, name: str) -> float:
        status, body = fetch(self.probe_url, "/metrics", METRICS_TOKEN)
        assert status == 200
        lines = [line for line in body.decode().splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str) -> Answer:
        """One request on a connection of its own; `X_Venvd_Session="a"` is a header."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        port = self.port if self.kind == "http" else self.http_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            connection.request(method, path, payload, given)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def write_keys(path: Path, replicas: list[dict[str, Any]], names: int = 2) -> None:
    """Replace a key file whole."""
    content = {"keys": [], "tokens": [], "siblings": {"names": names, "replicas": replicas}}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


@dataclass
class Replicas:
    """Running replicas that know each other, and their entries in the table."""

    kind: str
    running: list[Running]
    entries: list[dict[str, Any]]


def start_replicas(stack: Stack, kind: str, count: int = 2, files: Mapping[str, Path] | None = None) -> Replicas:
    digests = {"VENVD_TOKEN_SHA256": digest(TOKEN), "VENVD_METRICS_TOKEN_SHA256": digest(METRICS_TOKEN)}
    started = [stack.start(kind, VENVD_REPLICA=str(number), files=files, **digests) for number in range(count)]
    entries = [{"url": each.url, "innerUrl": each.url} for each in started]
    if kind == "rpc":
        entries = [
            {**entry, "innerHttpUrl": each.record.probe_url} for entry, each in zip(entries, started, strict=True)
        ]
    content = {"keys": [], "tokens": [], "siblings": {"names": count, "replicas": entries}}
    for each in started:
        stack.engine.write_keys(each.record, json.dumps(content).encode())
    if count > 1:
        with venvd.connect(started[0].url, TOKEN) as backend:
            wait_until(lambda: _is_numbered(backend), "the servers do not know of each other")
    return Replicas(kind, started, entries)


def _is_numbered(backend: venvd.Backend) -> bool:
    with backend.sessions.create() as session:
        return session.name.startswith("0-")


class Routers:
    """Starts routers, and ends them all."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._started: list[Router] = []

    def start(
        self,
        kind: str,
        replicas: list[dict[str, Any]],
        environment: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
    ) -> Router:
        folder = self._make_folder("router")
        keys, log = folder / "keys.json", folder / "log"
        write_keys(keys, replicas)
        port, http_port = free_port(), free_port()
        settings = {
            "VENVD_TYPE": kind,
            "VENVD_NAME": "routed",
            "VENVD_HOST": "127.0.0.1",
            "VENVD_PORT": str(port),
            "VENVD_HTTP_PORT": str(http_port),
            "VENVD_KEYS_FILE": str(keys),
            "VENVD_TOKEN_SHA256": digest(TOKEN),
            "VENVD_METRICS_TOKEN_SHA256": digest(METRICS_TOKEN),
            "VENVD_METRICS_TOKEN": METRICS_TOKEN,
            **(environment or {}),
        }
        with log.open("wb") as stderr:
            command = [sys.executable, "-m", "venvd_router"]
            process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=stderr)
        router = Router(kind, port, http_port, keys, log, process, replicas, "VENVD_TLS_CERT" in settings)
        self._started.append(router)
        if ready:
            wait_until(lambda: _answers(router), log.read_text)
        return router

    def stop(self) -> None:
        for router in self._started:
            if router.process.poll() is None:
                router.stop()


def _answers(router: Router) -> bool:
    assert router.process.poll() is None, router.log.read_text()
    try:
        return fetch(router.probe_url, "/livez")[0] == 200
    except OSError:
        return False
