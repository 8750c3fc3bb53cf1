"""Controllers in this process: over the local engine, and over an engine in memory that a test can hold up."""

from __future__ import annotations

import http.server
import json
import queue
import socketserver
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from harness.postgresql import Cluster, running_cluster

from venvd_contract.errors import Conflict, NotFound, VenvdError
from venvd_contract.internal import audit
from venvd_contract.internal.messages import LOAD_PATH, LoadReport, RouterLoad
from venvd_contract.resources import Leftover, LogLine, OperationInfo, Package
from venvd_controller import launch_rows, updates
from venvd_controller.app import create_app
from venvd_controller.controller import Controller, create_controller
from venvd_controller.database import Database, open_database
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

from .homes import open_home  # type: ignore[import-not-found]

AVAILABLE = ("3.11", "3.13")
"""The CPythons of the engine in memory."""
TIMEOUT = 120.0


class _ProbeHandler(http.server.BaseHTTPRequestHandler):
    """Probes and metrics of one launch."""

    def do_GET(self) -> None:
        ready = self.server.backend.ready  # type: ignore[attr-defined]
        status, body = (200, b"{}") if ready or self.path == "/livez" else (503, b'{"detail": "no worker host yet"}')
        if self.path == "/metrics":
            body = self.headers.get("Authorization", "").encode()
        if self.path == LOAD_PATH:
            status, body = 200, json.dumps(asdict(self.server.backend.load)).encode()  # type: ignore[attr-defined]
        if self.path == "/walls":
            status, body = self.server.backend.walls  # type: ignore[attr-defined]
        events = self.server.backend.events  # type: ignore[attr-defined]
        if events is not None and self.path.startswith(audit.PATH):
            self.server.backend.asked.append(self.path.partition("=")[2])  # type: ignore[attr-defined]
            raw = self.server.backend.raw_events  # type: ignore[attr-defined]
            status, body = 200, json.dumps(asdict(events)).encode() if raw is None else raw
        self.send_response(status)
        if events is not None:
            self.send_header(audit.POSITION_HEADER, events.position)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


class _ProbeServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@dataclass
class MemoryBackend:
    """One launch: a real HTTP server answers its probes."""

    launch: Launch
    server: _ProbeServer
    ready: bool = True
    parts: dict[str, PartState] = field(
        default_factory=lambda: dict.fromkeys(("server", "worker"), PartState("running"))
    )
    lines: list[LogLine] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    keys: bytes = b""
    secrets: bytes = b""
    events: audit.ServerEvents | None = None
    """What its server has for the audit log."""
    raw_events: bytes | None = None
    """What its server sends in place of them."""
    walls: tuple[int, bytes] = (404, b"{}")
    load: LoadReport | RouterLoad = field(default_factory=lambda: LoadReport(sessions=1, most=64))
    asked: list[str] = field(default_factory=list)
    """The positions after which the controller asked for events."""

    def log(self, text: str, source: str = "worker") -> None:
        with self.changed:
            self.lines.append(LogLine(datetime.now(UTC).isoformat(), source, "stdout", text))
            self.changed.notify_all()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        with self.changed:
            self.parts = dict.fromkeys(self.parts, PartState("missing"))
            self.changed.notify_all()


class MemoryEngine:
    """Implements `Engine` in this process.

    Attributes:
        gates: hold up the steps of their names until they are set.
        faults: make the steps of their names fail.
        steps: the names of all steps so far.
        others: leftovers apart from images.
        ready: whether the probes of new launches are answered with success.
        version: what a lock pins each package to.
        server: the version of the servers that a start gives.
        user_ids: those that worker hosts may have.
        planned: the launch of the last manifest.
        taken: the launches that took the address of another one, with that.
        sockets: whether clients reach the sockets of its backends.
        walls: what the servers of new launches answer to `/walls`.
    """

    name = "memory"
    has_routers = False

    def __init__(self) -> None:
        self.ends: queue.SimpleQueue[Any] | None = None
        """What `watch` reports until a None ends it; None: this engine reports nothing."""
        self.gates: dict[str, threading.Event] = {}
        self.faults: dict[str, VenvdError] = {}
        self.steps: list[str] = []
        self.images: dict[str, Image] = {}
        self.launches: dict[str, MemoryBackend] = {}
        self.others: list[Leftover] = []
        self.ready = True
        self.version = 0
        self.server = 1
        self.count_processors: Callable[[], int | None] = lambda: None
        self.user_ids: Sequence[int] = range(5000, 5100)
        self.planned: Launch | None = None
        self.sockets = True
        self.moving_types: frozenset[str] = frozenset()
        self.taken: list[tuple[str, str]] = []
        self.walls = 200, b'{"landlock": 7, "callFilter": true, "networkSockets": false, "kernel": "6.12"}'

    def _step(self, name: str, progress: Progress | None = None) -> None:
        self.steps.append(name)
        gate = self.gates.get(name)
        while gate is not None and not gate.wait(0.02):
            if progress is not None:
                progress.check()
        if name in self.faults:
            raise self.faults[name]

    def check(self) -> None:
        self._step("check")

    def capabilities(self) -> Capabilities:
        gaps = ("nothing is guarded: this is an engine for tests",)
        return Capabilities(True, True, True, True, True, gaps, sockets=self.sockets)

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        self._step("resolve", progress)
        if version not in AVAILABLE:
            raise NotFound(f"there is no CPython {version}; there are {', '.join(AVAILABLE)}")
        return RuntimeRef(version, f"{version}.5", f"/{self.name}/{version}")

    def lock(
        self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        self._step("lock", progress)
        return "\n".join(f"{line}=={self.version}" for line in [*requirements, *constraints])

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        progress.phase("install")
        progress.log(f"installing {venv.lock}")
        self._step("build", progress)
        packages = [Package(line, "1") for line in venv.lock.splitlines()]
        return self.images.setdefault(
            venv.key(), Image(venv.key(), f"ref-{venv.key()}", venv.runtime.resolved, packages)
        )

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:
        self._step("adopt", progress)
        return self.images.setdefault(f"of {folder}", Image(f"of {folder}", str(folder), "3.11.9", foreign=True))

    def find_image(self, key: str) -> Image | None:
        self._step("find_image")
        return self.images.get(key)

    def remove_image(self, key: str) -> None:
        self._step("remove_image")
        self.images.pop(key, None)

    def prepare(self, backend_type: str, progress: Progress) -> None:
        self._step("prepare", progress)

    def identify_server(self, backend_type: str) -> str | None:
        return f"{backend_type} server {self.server}"

    def claim_user_ids(self) -> Sequence[int]:
        return self.user_ids

    def make_manifest(self, launch: Launch, token: str | None, image: str | None) -> Sequence[Mapping[str, Any]]:
        self._step("make_manifest")
        self.planned = launch
        metadata = {"name": launch.name}
        secret = {"kind": "Secret", "metadata": metadata, "keys": launch.keys.decode(), "token": token}
        return [secret, {"kind": "Pod", "metadata": metadata, "image": image, "command": "a\nb"}]

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        self._step("start", progress)
        backend = MemoryBackend(
            launch, self._listen(launch), ready=self.ready, keys=launch.keys, secrets=launch.secrets, walls=self.walls
        )
        backend.server.backend = backend  # type: ignore[attr-defined]
        threading.Thread(target=backend.server.serve_forever, args=(0.02,), daemon=True).start()
        backend.log("listening", "server")
        self.launches[launch.id] = backend
        return self._create_record(backend)

    def _listen(self, launch: Launch) -> _ProbeServer:
        port = launch.ports[0]
        for number in range(port.wanted, port.wanted + (1 if port.exact else 200)):
            try:
                return _ProbeServer((launch.host, number), _ProbeHandler)
            except OSError:
                continue
        raise Conflict(f"port {port.wanted} is taken")

    def _create_record(self, backend: MemoryBackend) -> LaunchRecord:
        url = f"http://{backend.launch.host}:{backend.server.server_port}"
        return LaunchRecord(self.name, backend.launch.id, url, url, {"ociRuntime": backend.launch.oci_runtime})

    def inspect(self, record: LaunchRecord) -> BackendState:
        backend = self.launches.get(record.launch_id)
        if backend is None:
            return BackendState(PartState("missing"), PartState("missing"))
        return BackendState(*backend.parts.values())

    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:
        self._step("take_address")
        self.taken.append((record.launch_id, former.launch_id))

    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        self._step("write_keys")
        if record.launch_id in self.launches:
            self.launches[record.launch_id].keys = data

    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        self._step("write_secrets")
        if record.launch_id in self.launches:
            self.launches[record.launch_id].secrets = data

    def refresh_files(self, record: LaunchRecord) -> None:
        """Do nothing: these servers read no files."""

    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._step("stop")

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        self._step("destroy")
        self._remove(record.launch_id)

    def destroy_owned(self, owned: Owned) -> None:
        self._step("destroy_owned")
        self._remove(owned.launch_id)

    def _remove(self, launch_id: str) -> None:
        if backend := self.launches.pop(launch_id, None):
            backend.close()

    def list_owned(self) -> Sequence[Owned]:
        self._step("list_owned")
        records = [(backend, self._create_record(backend)) for backend in list(self.launches.values())]
        return [
            Owned(record.launch_id, backend.launch.name, record, running, running)
            for backend, record in records
            for running in [self.inspect(record).running]
        ]

    def watch(self) -> Iterator[None] | None:
        self._step("watch")
        return None if self.ends is None else iter(self.ends.get, None)

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        self._step("leftovers")
        venvs = [Leftover("venv", key, current=False) for key in self.images if key not in used]
        return [*venvs, *self.others]

    def discard(self, leftover: Leftover) -> None:
        self._step("discard")
        self.images.pop(leftover.name, None)
        self.others = [other for other in self.others if other != leftover]

    def sweep(self) -> None:
        self._step("sweep")

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        backend = self.launches.get(record.launch_id)
        if backend is None:
            return

        def ended() -> bool:
            return not follow or record.launch_id not in self.launches

        position = 0 if tail is None else max(0, len(backend.lines) - tail)
        while True:
            with backend.changed:
                backend.changed.wait_for(lambda start=position: len(backend.lines) > start or ended(), 30)
                lines = backend.lines[position:]
            yield from lines
            position += len(lines)
            if not lines and ended():
                return

    def find_backend(self, name: str) -> MemoryBackend:
        """Return the only launch of a backend."""
        (backend,) = [backend for backend in self.launches.values() if backend.launch.name == name]
        return backend


def wait_until(holds: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait until `holds` returns something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := holds():
            return value
        time.sleep(0.01)
    raise AssertionError(f"still not true after {seconds} s")


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", engine="local", reconcile_interval=0.1)


@contextmanager
def opened_controller(settings: Settings) -> Iterator[Controller]:
    """A controller over the local engine that is not started: it runs no operations."""
    home = open_home(settings)
    engine_settings = settings.create_engine_settings(home.id)
    controller = create_controller(settings, home, lambda name: choose(name, engine_settings))
    yield controller
    controller.database.close()
    home.close()


@contextmanager
def opened_client(controller: Controller) -> Iterator[TestClient]:
    """A client with the admin's token; the controller runs until the end of the block."""
    headers = {"Authorization": f"Bearer {controller.home.token}"}
    with TestClient(create_app(controller), headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def controller(settings: Settings) -> Iterator[Controller]:
    with opened_controller(settings) as controller:
        yield controller


@pytest.fixture
def client(controller: Controller) -> Iterator[TestClient]:
    with opened_client(controller) as client:
        yield client


@pytest.fixture(scope="module")
def shared_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client for tests that leave nothing in the controller."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), engine="local")
    with opened_controller(settings) as controller, opened_client(controller) as client:
        yield client


class Testbed:
    """A controller over the engine in memory."""

    __test__ = False

    client: TestClient

    def __init__(self, settings: Settings, engine: MemoryEngine) -> None:
        self.engine = engine
        self.controller = create_controller(settings, open_home(settings), self._choose)

    def _choose(self, _name: str) -> tuple[Engine, str]:
        return self.engine, "memory: a test"

    def wait(self, operation: OperationInfo | None) -> OperationInfo:
        """Wait until an operation ends."""
        assert operation is not None
        return self.controller.operations.wait(operation.id, TIMEOUT)

    def await_running(self, name: str) -> Any:
        """Wait until a backend runs, and return it."""
        get = self.controller.backends.get
        return wait_until(lambda: (backend := get(name)).state == "running" and backend)

    @contextmanager
    def started(self) -> Iterator[Testbed]:
        self.controller.start()
        try:
            yield self
        finally:
            self.close()

    def close(self) -> None:
        for gate in self.engine.gates.values():
            gate.set()
        self.controller.stop()
        self.controller.database.close()
        self.controller.home.close()


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    engine = MemoryEngine()
    yield engine
    for backend in engine.launches.values():
        backend.close()


@pytest.fixture
def create_testbed(tmp_path: Path, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Testbed]:
    """Creates controllers of one home, one after the other, which retry a failed start soon."""
    monkeypatch.setattr(launch_rows, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(updates, "_FIRST_DELAY", 0.2)

    def create(**fields: Any) -> Testbed:
        defaults = {"home": tmp_path / "home", "reconcile_interval": 0.05, "stop_grace": 0.0}
        return Testbed(Settings(**{**defaults, **fields}), engine)

    return create


@pytest.fixture
def testbed(create_testbed: Callable[..., Testbed]) -> Iterator[Testbed]:
    with create_testbed().started() as testbed:
        yield testbed


@pytest.fixture(scope="module")
def shared_testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A controller over the engine in memory, for all tests of a module; it runs, and `client` is its admin."""
    with running_testbed(home=tmp_path_factory.mktemp("home")) as testbed:
        yield testbed


@contextmanager
def running_testbed(**settings: Any) -> Iterator[Testbed]:
    """A controller over the engine in memory that runs; `client` is its admin."""
    engine = MemoryEngine()
    testbed = Testbed(Settings(reconcile_interval=0.05, stop_grace=0.0, **settings), engine)
    with opened_client(testbed.controller) as testbed.client:
        yield testbed
    testbed.close()
    for backend in engine.launches.values():
        backend.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL server."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind that is supported."""
    url = f"sqlite:///{tmp_path / 'test.sqlite3'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").create_database()
    database = open_database(url)
    yield database
    database.close()
