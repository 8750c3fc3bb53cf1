"""Controllers in this process: over the local engine, and over one in memory whose every step a test can hold up."""

from __future__ import annotations

import http.server
import socketserver
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from venvd_contract.errors import Conflict, NotFound, Unavailable, VenvdError
from venvd_contract.resources import Leftover, LogLine, OperationInfo, Package
from venvd_controller import app
from venvd_controller.database import Database, open_database
from venvd_controller.home import Home
from venvd_controller.program import Program, build
from venvd_controller.settings import Settings
from venvd_engines.engine import (
    BackendState,
    Capabilities,
    Engine,
    Image,
    Launch,
    LaunchRecord,
    Owned,
    PartState,
    Progress,
    RuntimeRef,
    VenvBuild,
)
from venvd_engines.select import choose

HERE = ("3.11", "3.13")
"""The CPythons that the engine in memory has."""


class _Answers(http.server.BaseHTTPRequestHandler):
    """Probes and metrics of one launch."""

    def do_GET(self) -> None:
        ready = self.server.part.ready  # type: ignore[attr-defined]
        status, body = (200, b"{}") if ready or self.path == "/livez" else (503, b'{"detail": "no worker host yet"}')
        if self.path == "/metrics":
            body = self.headers.get("Authorization", "").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@dataclass
class Part:
    """One launch: a real HTTP server for its probes."""

    launch: Launch
    server: _Server
    ready: bool = True
    parts: dict[str, PartState] = field(
        default_factory=lambda: dict.fromkeys(("server", "worker"), PartState("running"))
    )
    lines: list[LogLine] = field(default_factory=list)
    said: threading.Condition = field(default_factory=threading.Condition)

    def say(self, text: str, source: str = "worker") -> None:
        with self.said:
            self.lines.append(LogLine(datetime.now(UTC).isoformat(), source, "stdout", text))
            self.said.notify_all()

    def end(self, part: str, detail: str) -> None:
        self.parts[part] = PartState("exited", detail)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        with self.said:
            self.parts = dict.fromkeys(self.parts, PartState("missing"))
            self.said.notify_all()


class MemoryEngine:
    """Implements `Engine` in this process; `gates` hold up the steps of their names, `faults` make them fail."""

    name = "memory"

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.faults: dict[str, VenvdError] = {}
        self.steps: list[str] = []
        self.images: dict[str, Image] = {}
        self.launches: dict[str, Part] = {}
        self.others: list[Leftover] = []
        """What nothing uses, apart from images."""
        self.ready = True
        self.releases = 0
        """How many releases the index has made: each locks otherwise."""

    def _step(self, name: str, progress: Progress | None = None) -> None:
        self.steps.append(name)
        while not self.gates.get(name, _OPEN).wait(0.02):
            if progress is not None:
                progress.check()
        if name in self.faults:
            raise self.faults[name]

    def check(self) -> None:
        self._step("check")

    def capabilities(self) -> Capabilities:
        return Capabilities(True, True, True, True, True, ("nothing is guarded: this engine is one of tests",))

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        self._step("resolve", progress)
        if version not in HERE:
            raise NotFound(f"there is no CPython {version}; there are {', '.join(HERE)}")
        return RuntimeRef(version, f"{version}.5", f"/{self.name}/{version}")

    def lock(self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress) -> str:
        self._step("lock", progress)
        return "\n".join(f"{line}=={self.releases}" for line in requirements)

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        progress.phase("install")
        progress.log(f"installing {venv.lock}")
        self._step("build", progress)
        packages = [Package(line, "1") for line in venv.lock.splitlines()]
        return self.images.setdefault(
            venv.key(), Image(venv.key(), f"ref-{venv.key()}", venv.runtime.resolved, packages)
        )

    def find_image(self, key: str) -> Image | None:
        self._step("find_image")
        return self.images.get(key)

    def remove_image(self, key: str) -> None:
        self._step("remove_image")
        self.images.pop(key, None)

    def prepare(self, backend_type: str, progress: Progress) -> None:
        self._step("prepare", progress)

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        self._step("start", progress)
        part = Part(launch, self._listen(launch), ready=self.ready)
        part.server.part = part  # type: ignore[attr-defined]
        threading.Thread(target=part.server.serve_forever, args=(0.02,), daemon=True).start()
        part.say("listening", "server")
        self.launches[launch.id] = part
        return self._make_record(part)

    def _listen(self, launch: Launch) -> _Server:
        port = launch.ports[0]
        for number in range(port.wanted, port.wanted + (1 if port.exact else 200)):
            try:
                return _Server((launch.host, number), _Answers)
            except OSError:
                continue
        raise Conflict(f"port {port.wanted} is taken")

    def _make_record(self, part: Part) -> LaunchRecord:
        url = f"http://{part.launch.host}:{part.server.server_port}"
        return LaunchRecord(self.name, part.launch.id, url, url, {})

    def inspect(self, record: LaunchRecord) -> BackendState:
        part = self.launches.get(record.launch_id)
        return BackendState(*part.parts.values()) if part else BackendState(PartState("missing"), PartState("missing"))

    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._step("stop")

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        self._step("destroy")
        if part := self.launches.pop(record.launch_id, None):
            part.close()

    def destroy_owned(self, owned: Owned) -> None:
        self._step("destroy_owned")
        if part := self.launches.pop(owned.launch_id, None):
            part.close()

    def list_owned(self) -> Sequence[Owned]:
        self._step("list_owned")
        return [
            Owned(key, part.launch.name, self._make_record(part), self.inspect(self._make_record(part)).running)
            for key, part in list(self.launches.items())
        ]

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        self._step("leftovers")
        venvs = [Leftover("venv", key, current=False) for key in self.images if key not in used]
        return [*venvs, *self.others]

    def discard(self, leftover: Leftover) -> None:
        self._step("discard")
        self.images.pop(leftover.name, None)
        self.others = [one for one in self.others if one != leftover]

    def sweep(self) -> None:
        self._step("sweep")

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        part = self.launches.get(record.launch_id)
        if part is None:
            return
        seen = len(part.lines) if tail is None else min(tail, len(part.lines))
        at = len(part.lines) - seen
        while True:
            with part.said:
                part.said.wait_for(lambda at=at: len(part.lines) > at or not follow or self._gone(record), 30)
                new = part.lines[at:]
            yield from new
            at += len(new)
            if not new and (not follow or self._gone(record)):
                return

    def _gone(self, record: LaunchRecord) -> bool:
        return record.launch_id not in self.launches

    def part_of(self, name: str) -> Part:
        """The launch of a backend."""
        found = [part for part in self.launches.values() if part.launch.name == name]
        assert len(found) == 1, f"{len(found)} launches of {name}"
        return found[0]


_OPEN = threading.Event()
_OPEN.set()


def until(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `holds` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to be")


@pytest.fixture(name="until")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", engine="local", reconcile_interval=0.1)


def _closed(program: Program) -> None:
    program.database.close()
    program.home.close()


@pytest.fixture
def program(settings: Settings) -> Iterator[Program]:
    """A controller over the local engine that is built and not started: nothing runs its operations."""
    home = Home(settings.home)
    made = build(settings, home, lambda name: choose(name, settings.for_engine(home.id)))
    yield made
    _closed(made)


@pytest.fixture
def client(program: Program) -> Iterator[TestClient]:
    """A client with the admin's token; the controller runs as long as the test."""
    headers = {"Authorization": f"Bearer {program.home.token}"}
    with TestClient(app.create(program), headers=headers, raise_server_exceptions=False) as made:
        yield made


class Desk:
    """A controller over the engine in memory, and what tests ask of it."""

    def __init__(self, settings: Settings, engine: MemoryEngine) -> None:
        self.settings = settings
        self.engine = engine
        self.program = build(settings, Home(settings.home), self._choose)

    def _choose(self, _name: str) -> tuple[Engine, str]:
        return self.engine, "memory: a test"

    def done(self, operation: OperationInfo | None) -> OperationInfo:
        assert operation is not None
        return self.program.operations.wait(operation.id, 30)

    def running(self, name: str) -> Any:
        return until(lambda: (found := self.program.backends.get(name)).state == "running" and found)

    @contextmanager
    def started(self) -> Iterator[Desk]:
        self.program.start()
        try:
            yield self
        finally:
            self.close()

    def close(self) -> None:
        for gate in self.engine.gates.values():
            gate.set()
        self.program.stop()
        _closed(self.program)


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    made = MemoryEngine()
    yield made
    for part in made.launches.values():
        part.close()


@pytest.fixture
def desks(tmp_path: Path, engine: MemoryEngine) -> Callable[..., Desk]:
    """Makes controllers of one home, one after the other."""

    def make(**fields: Any) -> Desk:
        fixed = {"home": tmp_path / "home", "reconcile_interval": 0.05, "start_timeout": 2.0, "stop_grace": 0.0}
        return Desk(Settings(**{**fixed, **fields}), engine)

    return make


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Iterator[Desk]:
    """A controller that runs."""
    with desks().started() as made:
        yield made


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = open_database(f"sqlite:///{tmp_path / 'test.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def away() -> VenvdError:
    return Unavailable("the engine does not answer")
