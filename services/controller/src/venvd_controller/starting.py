"""The work of starting a backend: venv, server, launch, and waiting until it is ready."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import asdict
from urllib.parse import urlsplit

from venvd_contract.errors import Cancelled, Unavailable, VenvdError
from venvd_contract.resources import BackendSpec
from venvd_controller import probes
from venvd_controller.backends import KIND, Backends, spec_of
from venvd_controller.clock import now
from venvd_controller.database.tables import BackendRow
from venvd_controller.home import sha256
from venvd_controller.operations import Operations, Run
from venvd_controller.settings import Settings
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine, Handle, Image, Launch, Port, WorkerLimits

_MOST_WAIT = 60.0
"""Seconds between two tries of a backend that does not start, at the most."""
_PORTS = {
    "http": (Port("main", 5678, 5678),),
    "rpc": (Port("main", 50051, 50051), Port("http", 8080, 8080)),
    "pipe": (),
}


class Starter:
    """Runs operations of the kind `backend.start`."""

    def __init__(
        self, engine: Engine, settings: Settings, backends: Backends, venvs: Venvs, operations: Operations
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._backends = backends
        self._venvs = venvs
        operations.register(KIND, self._start)

    def _start(self, name: str, run: Run) -> None:
        """Replace whatever runs of this backend by a fresh launch."""
        row = self._backends.row(name)
        if not row.wanted:
            raise Cancelled(f'the backend "{name}" is being removed')
        self._backends.update(name, state="starting", error=None)
        try:
            image = self._venvs.ensure(row.venv, run)
            run.phase("server")
            self._engine.prepare(row.spec["type"], run)
            self._clear(row)
            handle = self._launch(row, image, run)
        except VenvdError as error:
            self._note_failure(row, error)
            raise
        self._backends.update(
            name, state="running", error=None, started_at=now(), python=image.python, key=image.key,
            failures=0, retry_at=0.0, ports=_had(handle),
        )  # fmt: skip

    def _clear(self, row: BackendRow) -> None:
        if row.handle is not None:
            handle = Handle(**row.handle)
            self._engine.stop(handle, self._settings.stop_grace)
            self._engine.destroy(handle)
            self._backends.update(row.name, launch=None)

    def _launch(self, row: BackendRow, image: Image, run: Run) -> Handle:
        launch = self._plan(row, image)
        # known before anything is made: a controller killed now finds the launch by its label and row
        self._backends.update(row.name, launch=launch.id)
        run.phase("start")
        handle = self._engine.start(launch, run)
        self._backends.update(row.name, handle=asdict(handle))
        run.phase("ready")
        try:
            self._await_ready(handle, run)
        except VenvdError:
            self._engine.stop(handle, self._settings.stop_grace)
            self._engine.destroy(handle)
            self._backends.update(row.name, handle=None, launch=None)
            raise
        return handle

    def _await_ready(self, handle: Handle, run: Run) -> None:
        end = time.monotonic() + self._settings.start_timeout
        reason = "nothing answered"
        while time.monotonic() < end:
            run.check()
            reason = probes.unready(handle.probe_url)
            if not reason:
                return
            state = self._engine.inspect(handle)
            if not state.running:
                ended = "server" if state.server.state != "running" else "worker"
                detail = getattr(state, ended).detail
                raise Unavailable(f"the {ended} ended while it started ({detail}){self._last_words(handle, ended)}")
            time.sleep(0.05)
        raise Unavailable(
            f"not ready after {self._settings.start_timeout:g} s: {reason}{self._last_words(handle, 'server')}"
        )

    def _last_words(self, handle: Handle, source: str) -> str:
        try:
            lines = [line.text for line in self._engine.logs(handle, 30, follow=False) if line.source == source]
        except VenvdError:
            return ""
        return "; its last lines:\n" + "\n".join(lines[-8:]) if lines else ""

    def _note_failure(self, row: BackendRow, error: VenvdError) -> None:
        failures = row.failures + 1
        wait = min(_MOST_WAIT, 2.0**failures)
        # a backend that ran before is tried again; one that never did waits for its owner
        state = "unhealthy" if row.started_at else "failed"
        self._backends.update(
            row.name, state=state, error=error.message, failures=failures, retry_at=time.time() + wait
        )

    def _plan(self, row: BackendRow, image: Image) -> Launch:
        spec = spec_of(row)
        venv = self._venvs.get(row.venv).spec
        settings = self._settings
        return Launch(
            id=secrets.token_hex(6),
            name=row.name,
            type=spec.type,
            image=image,
            server_env=self._server_env(row, spec),
            worker_env={**venv.env, **spec.env},
            host=spec.host,
            ports=_ports(spec, row.ports),
            network=venv.network if spec.network is None else spec.network,
            limits=WorkerLimits(
                memory_bytes=spec.limits.memoryBytes or settings.worker_memory_bytes,
                cpus=spec.limits.cpus or settings.worker_cpus,
                processes=spec.limits.processes or settings.worker_processes,
            ),
            socket_name=hashlib.sha256(row.name.encode()).hexdigest()[:10] if spec.type == "pipe" else None,
            labels=spec.labels,
        )

    def _server_env(self, row: BackendRow, spec: BackendSpec) -> dict[str, str]:
        token = self._backends.token(row)
        env = {
            "VENVD_NAME": row.name,
            "VENVD_VENV": row.venv,
            "VENVD_ENGINE_NAME": self._engine.name,
            "VENVD_METRICS_TOKEN_SHA256": sha256(self._backends.metrics_token(row)),
            "VENVD_SESSION_LIMITS": self._settings.session_limits,
            "VENVD_LOG_LEVEL": self._settings.log_level,
        }
        env |= {"VENVD_TOKEN_SHA256": sha256(token)} if token else {"VENVD_NO_TOKEN": "1"}
        if spec.timeout is not None:
            env["VENVD_DEFAULT_TIMEOUT"] = f"{spec.timeout:g}"
        return env


def _had(handle: Handle) -> dict[str, int]:
    """The ports that a launch got, to be asked for again."""
    found = {"main": urlsplit(handle.url).port, "http": urlsplit(handle.probe_url).port}
    return {name: port for name, port in found.items() if port is not None}


def _ports(spec: BackendSpec, had: dict[str, int]) -> tuple[Port, ...]:
    """The ports to publish: the one asked for, else those it had, else the first that are free."""
    found = []
    for port in _PORTS[spec.type]:
        exact = port.name == "main" and spec.port is not None
        wanted = spec.port if exact and spec.port is not None else had.get(port.name, port.wanted)
        found.append(Port(port.name, port.inside, wanted, exact))
    return tuple(found)
