"""The state of a controller with real backends is destroyed and restored, and moves between the databases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port
from harness.postgresql import Cluster
from harness.waiting import wait_until

import venvd
from venvd import _pid_file

pytestmark = pytest.mark.slow
MINOR = f"3.{sys.version_info.minor}"


class Machine:
    """A directory with a home on the local engine, and the CLI with which an operator works on it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
        self.environment = {**kept, "VENVD_HOME": str(self.home), "VENVD_ENGINE": "local"}
        self._directory = directory

    def run(self, *words: object, status: int = 0) -> Any:
        """Run the CLI, and return what it prints as JSON."""
        command = [sys.executable, "-m", "venvd", *map(str, words), "--json"]
        done = subprocess.run(
            command, env=self.environment, cwd=self._directory, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def up(self) -> None:
        self.run("up", "--detach", "--port", free_port())

    def await_backend(self) -> Any:
        """Wait until the backend runs."""
        return wait_until(
            lambda: (backend := self.run("status", "web"))["state"] == "running" and backend, "it does not run"
        )


@pytest.fixture
def machine() -> Iterator[Machine]:
    directory = Path(tempfile.mkdtemp(prefix="venvd-restore-"))
    machine = Machine(directory)
    yield machine
    if _pid_file.read_running(machine.home / "controller.pid"):
        machine.run("stop", "web")
        machine.run("down")
    shutil.rmtree(directory)


def evaluate(url: str, token: str, code: str) -> Any:
    with venvd.connect(url, token) as backend:
        return backend.eval(code)


@pytest.mark.long
def test_destroyed_state_comes_back(machine: Machine, postgresql: Cluster, tmp_path: Path) -> None:
    """From SQLite to PostgreSQL and back: old tokens work, the backend is back, and keeps its objects in a move."""
    machine.up()
    machine.run("venv", "create", "app", "--python", MINOR)
    before = machine.run("start", "http", "--venv", "app", "--name", "web", "--port", free_port())
    key = machine.run("key", "create", "ci", "--scope", "use:web")["key"]
    assert evaluate(before["url"], key, "6 * 7") == 42
    told = machine.run("backup", tmp_path / "first.tar.gz")
    assert told["database"] == "sqlite"
    assert machine.run("restore", tmp_path / "first.tar.gz", status=1)["code"] == "conflict"

    machine.run("stop", "web")
    machine.run("down")
    shutil.rmtree(machine.home)
    machine.environment["VENVD_DATABASE_URL"] = postgresql.create_database()
    assert machine.run("restore", tmp_path / "first.tar.gz")["database"] == "postgresql"
    machine.up()
    after = machine.await_backend()
    assert (after["url"], after["token"]) == (before["url"], before["token"])
    for token in (key, before["token"]):
        assert evaluate(before["url"], token, "6 * 7") == 42
    assert [each["name"] for each in machine.run("key", "list")] == ["ci"]

    with venvd.connect(before["url"], key) as backend:
        backend.exec("kept = 'object'")
    assert machine.run("backup", tmp_path / "second.tar.gz")["database"] == "postgresql"
    machine.run("down")
    del machine.environment["VENVD_DATABASE_URL"]
    machine.run("restore", tmp_path / "second.tar.gz")
    machine.up()
    machine.await_backend()
    assert evaluate(before["url"], key, "kept") == "object"
