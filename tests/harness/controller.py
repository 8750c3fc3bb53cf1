"""A controller as an operator runs it: its own process and its own home. A test may kill it at any moment."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import forks
from harness.callers import HttpCaller
from harness.forks import Fork
from harness.ports import free_port
from harness.stack import ROOT, make_home_id, probe, remove_images
from harness.waiting import TIMEOUT, wait_until
from venvd_contract.errors import from_fields
from venvd_engines.engine import EngineSettings
from venvd_engines.select import choose

DONE = {"succeeded", "failed", "cancelled"}


class Controller:
    """One controller process and its home; `api` calls it without the SDK."""

    def __init__(self, engine: str, home: Path, env: dict[str, str] | None = None) -> None:
        self.engine = engine
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = env or {}
        self.process: Fork | None = None

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def start(self) -> Controller:
        self.launch()
        self._await_ready()
        return self

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VENVD_")},
            "VENVD_HOME": str(self.home),
            "VENVD_RUN_DIR": str(self.home / "run"),
            "VENVD_PORT": str(self.port),
            "VENVD_ENGINE": self.engine,
            **self.env,
        }
        with (self.home / "controller.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
            self.process = forks.start(forks.CONTROLLER, (), env, (nothing, log, log), directory=Path.cwd(), leads=True)

    def _await_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, "the controller ended:\n" + self.read_log()
            with contextlib.suppress(OSError):
                return probe(self.url, "/readyz") == http.client.OK
            return False

        wait_until(is_ready, lambda: f"the controller is not ready:\n{self.read_log()}\n")

    def read_log(self) -> str:
        return (self.home / "controller.log").read_text()[-4000:]

    def kill(self) -> None:
        """End the process with SIGKILL, so that it cleans nothing up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def raw(
        self, method: str, path: str, body: bytes | None = None, token: str | None = "", timeout: float = TIMEOUT
    ) -> tuple[int, Any]:
        """Send a request, and return status and JSON; `token` None sends none, the empty string sends the right one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = self.token if token == "" else token
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {sent}"} if sent else {})}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return its JSON; an error is raised as one of `venvd_contract.errors`."""
        status, answer = self.raw(method, path, None if body is None else json.dumps(body).encode())
        if status >= http.client.BAD_REQUEST:
            raise from_fields(answer)
        return answer

    def wait(self, operation: dict[str, Any] | str, seconds: float = 600) -> dict[str, Any]:
        """Wait until an operation ends, and return it."""
        key = operation if isinstance(operation, str) else operation["id"]

        def find_ended() -> dict[str, Any] | None:
            current: dict[str, Any] = self.api("GET", f"/v1/operations/{key}")
            return current if current["state"] in DONE else None

        ended: dict[str, Any] = wait_until(find_ended, lambda: f"operation {key} still runs", seconds)
        return ended

    def await_phase(self, key: str, phase: str) -> None:
        """Wait until an operation has begun a phase, or has ended."""

        def has_begun() -> bool:
            operation = self.api("GET", f"/v1/operations/{key}")
            return phase in [each["name"] for each in operation["phases"]] or operation["state"] in DONE

        wait_until(has_begun, lambda: f"operation {key} is not in the phase {phase}")

    def venv(self, name: str, **spec: Any) -> dict[str, Any]:
        """Put a venv and wait until it is ready."""
        change = self.api("PUT", f"/v1/venvs/{name}", spec)
        if change.get("operation"):
            ended = self.wait(change["operation"])
            assert ended["state"] == "succeeded", ended
        venv: dict[str, Any] = self.api("GET", f"/v1/venvs/{name}")
        assert venv["state"] == "ready", venv
        return venv

    def backend(self, venv: str, kind: str = "http", **spec: Any) -> dict[str, Any]:
        """Start a backend and wait until it runs."""
        started = self.api("POST", "/v1/backends", {"venv": venv, "type": kind, **spec})
        ended = self.wait(started["operation"])
        assert ended["state"] == "succeeded", (ended, self.read_log())
        return self.await_running(started["backend"]["name"])

    @contextlib.contextmanager
    def backends(self, venv: str, kinds: Sequence[str], **spec: Any) -> Iterator[dict[str, Any]]:
        """Run a backend of each type, by type, all of them started and deleted at once: an engine mostly waits."""
        with ThreadPoolExecutor() as pool:
            started = list(pool.map(lambda kind: self.backend(venv, kind, **spec), kinds))
            yield dict(zip(kinds, started, strict=True))
            list(pool.map(lambda backend: self.delete_backend(backend["name"]), started))

    def await_running(self, name: str) -> dict[str, Any]:
        """Wait until a backend runs, and return it."""
        backend: dict[str, Any] = {}

        def is_running() -> bool:
            backend.update(self.api("GET", f"/v1/backends/{name}"))
            return bool(backend["state"] == "running")

        wait_until(is_running, lambda: f"backend {name} does not run: {backend}\n{self.read_log()}\n")
        return backend

    def delete_backend(self, name: str) -> None:
        """Delete a backend and wait until it is gone."""
        self.api("DELETE", f"/v1/backends/{name}")

        def is_gone() -> bool:
            return self.raw("GET", f"/v1/backends/{name}")[0] == http.client.NOT_FOUND

        wait_until(is_gone, lambda: f"backend {name} still exists")


def caller(backend: dict[str, Any]) -> HttpCaller:
    return HttpCaller(backend["url"], backend["token"])


@contextlib.contextmanager
def running_controller(engine: str, **env: str) -> Iterator[Controller]:
    """Run a controller in a home of its own; at the end destroy what it owns, even if a test killed it."""
    home = Path(tempfile.mkdtemp(prefix="venvd-e2e-"))
    (home / "id").write_text(make_home_id())
    controller = Controller(engine, home, env)
    try:
        yield controller.start()
    finally:
        controller.stop()
        destroy_home(engine, home)


class SharedControllers:
    """Controllers that suites share within one test process, one for each engine, made when first asked for.

    Tests find other venvs and backends beside their own, and leave a controller as they found it. A suite that harms
    its controller, or that needs other settings, runs one of its own with `running_controller`.
    """

    def __init__(self) -> None:
        self._controllers: dict[str, Controller] = {}
        self._closing = contextlib.ExitStack()

    def controller(self, engine: str) -> Controller:
        if engine not in self._controllers:
            self._controllers[engine] = self._closing.enter_context(running_controller(engine))
        return self._controllers[engine]

    def close(self) -> None:
        """Stop the controllers and destroy what they own."""
        self._closing.close()


def destroy_home(engine: str, home: Path) -> None:
    """Destroy everything that carries the home's identity, then the home."""
    identity = home / "id"
    if identity.exists():
        settings = EngineSettings(
            home=home, home_id=identity.read_text().strip(), run_dir=home / "run", source_dir=ROOT
        )
        owner, _ = choose(engine, settings)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(owner.destroy_owned, owner.list_owned()))
        owner.sweep()
        if engine == "docker":
            remove_images(settings.home_id)
    shutil.rmtree(home, ignore_errors=True)


def unique(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(3)}"
