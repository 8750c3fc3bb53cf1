"""A controller as an operator runs it: its own process, its own home, killed without mercy where a test wants that."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.callers import HttpCaller
from harness.ports import free_port
from harness.stack import ROOT, probe, remove_images
from venvd_contract.errors import from_fields
from venvd_engines.engine import EngineSettings
from venvd_engines.select import choose

DONE = {"succeeded", "failed", "cancelled"}


class Controller:
    """One controller process and its home; `api` speaks to it without the SDK."""

    def __init__(self, engine: str, home: Path, env: dict[str, str] | None = None) -> None:
        self.engine = engine
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = env or {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def start(self) -> Controller:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VENVD_")},
            "VENVD_HOME": str(self.home),
            "VENVD_RUN_DIR": str(self.home / "run"),
            "VENVD_PORT": str(self.port),
            "VENVD_ENGINE": self.engine,
            **self._env,
        }
        with (self.home / "controller.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "venvd_controller"], env=env, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()
        return self

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if probe(self.url, "/readyz") == http.client.OK:
                    return
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError("the controller is not ready:\n" + self.log())

    def log(self) -> str:
        return (self.home / "controller.log").read_text()[-4000:]

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def raw(
        self, method: str, path: str, body: bytes | None = None, token: str | None = "", timeout: float = 60
    ) -> tuple[int, Any]:
        """Status and JSON of one request; `token` None sends none, empty sends the right one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        shown = self.token if token == "" else token
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {shown}"} if shown else {})}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a request that should succeed; an error is raised as the contract's."""
        status, found = self.raw(method, path, None if body is None else json.dumps(body).encode())
        if status >= http.client.BAD_REQUEST:
            raise from_fields(found)
        return found

    def wait(self, operation: dict[str, Any] | str, seconds: float = 300) -> dict[str, Any]:
        """The operation once it is done, whatever became of it."""
        key = operation if isinstance(operation, str) else operation["id"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found: dict[str, Any] = self.api("GET", f"/v1/operations/{key}")
            if found["state"] in DONE:
                return found
            time.sleep(0.1)
        raise AssertionError(f"operation {key} is not done after {seconds} s")

    def venv(self, name: str, **spec: Any) -> dict[str, Any]:
        """A venv that is ready."""
        change = self.api("PUT", f"/v1/venvs/{name}", spec)
        if change.get("operation"):
            done = self.wait(change["operation"])
            assert done["state"] == "succeeded", done
        found: dict[str, Any] = self.api("GET", f"/v1/venvs/{name}")
        assert found["state"] == "ready", found
        return found

    def backend(self, venv: str, kind: str = "http", **spec: Any) -> dict[str, Any]:
        """A backend that runs."""
        started = self.api("POST", "/v1/backends", {"venv": venv, "type": kind, **spec})
        done = self.wait(started["operation"])
        assert done["state"] == "succeeded", (done, self.log())
        return self.until_running(started["backend"]["name"])

    def until_running(self, name: str, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        found: dict[str, Any] = {}
        while time.monotonic() < end:
            found = self.api("GET", f"/v1/backends/{name}")
            if found["state"] == "running":
                return found
            time.sleep(0.1)
        raise AssertionError(f"backend {name} does not run after {seconds} s: {found}\n{self.log()}")


def caller(backend: dict[str, Any]) -> HttpCaller:
    return HttpCaller(backend["url"], backend["token"])


@contextlib.contextmanager
def running_controller(engine: str, **env: str) -> Iterator[Controller]:
    """A controller in a home of its own; all that it owned is destroyed at the end, also where a test killed it."""
    home = Path(tempfile.mkdtemp(prefix="venvd-e2e-"))
    controller = Controller(engine, home, env)
    try:
        yield controller.start()
    finally:
        controller.stop()
        destroy_home(engine, home)


def destroy_home(engine: str, home: Path) -> None:
    """Everything that carries the home's identity, then the home."""
    identity = home / "id"
    if identity.exists():
        settings = EngineSettings(
            home=home, home_id=identity.read_text().strip(), run_dir=home / "run", source_dir=ROOT
        )
        made, _ = choose(engine, settings)
        for owned in made.list_owned():
            made.destroy_owned(owned)
        made.sweep()
        if engine == "docker":
            remove_images(settings.home_id)
    shutil.rmtree(home, ignore_errors=True)


def unique(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(3)}"
