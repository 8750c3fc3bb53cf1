"""`docker compose up --wait`: a controller with its manifest's backends, as an operator runs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port
from harness.stack import ROOT, remove_images

pytestmark = [pytest.mark.docker, pytest.mark.network]

MANIFEST = """
venvs:
  - {name: default, requirements: []}
backends:
  - {name: web, type: http, port: HTTP}
  - {name: calls, type: rpc, port: RPC}
  - {name: pipe, type: pipe}
"""


@dataclass
class Project:
    """One Compose project of its own name, ports and run directory."""

    name: str
    port: int
    env: dict[str, str]

    def compose(self, *words: str) -> str:
        command = ["docker", "compose", "--project-directory", str(ROOT), "--project-name", self.name, *words]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def inside(self, *words: str) -> str:
        return self.compose("exec", "-T", "controller", *words).strip()

    def api(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        token = self.inside("cat", "/var/lib/venvd/token")
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def container(self) -> dict[str, Any]:
        key = self.compose("ps", "--quiet", "controller").strip()
        text = subprocess.run(["docker", "inspect", key], capture_output=True, text=True, check=True).stdout
        found: dict[str, Any] = json.loads(text)[0]
        return found


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    place = Path(tempfile.mkdtemp(prefix="venvd-c-"))
    manifest = place / "venvd.yaml"
    manifest.write_text(MANIFEST.replace("HTTP", str(free_port())).replace("RPC", str(free_port())))
    subprocess.run([ROOT / "deploy" / "compose-plugin"], check=True)
    subprocess.run([ROOT / "scripts" / "compose-env"], check=True)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    env |= {
        "VENVD_PUBLISHED_PORT": str(port),
        "VENVD_HOST_RUN_DIR": str(place / "run"),
        "VENVD_MANIFEST": str(manifest),
        "VENVD_TAG": "test",
    }
    made = Project(f"venvd-test-{port}", port, env)
    home = ""
    try:
        made.compose("up", "--detach", "--wait", "--build")
        home = made.inside("cat", "/var/lib/venvd/id")
        yield made
    finally:
        with contextlib.suppress(AssertionError):
            made.compose("stop")
        tidy(home)
        made.compose("down", "--volumes", "--timeout", "1")
        shutil.rmtree(place, ignore_errors=True)


def tidy(home: str) -> None:
    """Everything that the controller made carries its home's label."""
    if not home:
        return
    mine = f"label=dev.venvd.home={home}"
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--filter", mine], capture_output=True, text=True, check=True
    ).stdout
    if listed.split():
        subprocess.run(["docker", "rm", "--force", *listed.split()], capture_output=True, check=False)
    remove_images(home)


@pytest.fixture(scope="module")
def backends(project: Project) -> dict[str, dict[str, Any]]:
    """The manifest's backends, once all of them run."""
    end = time.monotonic() + 120
    found: dict[str, dict[str, Any]] = {}
    while time.monotonic() < end:
        found = {item["name"]: item for item in project.api("/v1/backends")["items"]}
        if len(found) == 3 and all(item["state"] == "running" for item in found.values()):
            return found
        time.sleep(0.5)
    raise AssertionError({name: (item["state"], item["error"]) for name, item in found.items()})


def test_the_manifests_backends_run(backends: dict[str, dict[str, Any]]) -> None:
    """One command gives a backend of each type, at the ports and in the run directory that were named."""
    assert {item["type"] for item in backends.values()} == {"http", "rpc", "pipe"}
    assert backends["web"]["url"].startswith("http://127.0.0.1:")
    assert backends["calls"]["url"].startswith("grpc://127.0.0.1:")
    assert Path(backends["pipe"]["url"].removeprefix("unix://")).is_socket()


@pytest.mark.needs("nc")
def test_a_program_on_the_host_uses_the_socket(backends: dict[str, dict[str, Any]]) -> None:
    """`nc -U` and one line of JSON are enough."""
    item = backends["pipe"]
    line = json.dumps({"command": "eval", "payload": {"expression": "6 * 7"}, "token": item["token"]})
    path = item["url"].removeprefix("unix://")
    done = subprocess.run(
        ["nc", "-N", "-U", path], input=line + "\n", capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(done.stdout) == {"result": {"value": 42}}


def test_another_container_uses_the_socket(project: Project, backends: dict[str, dict[str, Any]]) -> None:
    """A container without a network that mounts the socket's directory runs Python through it."""
    project.env["VENVD_PIPE_TOKEN"] = backends["pipe"]["token"]
    project.env["VENVD_PIPE_DIR"] = str(Path(backends["pipe"]["url"].removeprefix("unix://")).parent)
    told = project.compose("run", "--rm", "--no-deps", "example", "6 * 7")
    assert json.loads(told) == {"result": {"value": 42}}


def test_a_program_on_the_host_uses_the_port(backends: dict[str, dict[str, Any]]) -> None:
    """The published port answers with the backend's token."""
    item = backends["web"]
    connection = http.client.HTTPConnection(item["url"].removeprefix("http://"), timeout=30)
    connection.request("POST", "/api/eval", '{"expression": "6 * 7"}', {"Authorization": f"Bearer {item['token']}"})
    assert json.loads(connection.getresponse().read()) == {"value": 42}
    connection.close()


def test_the_controller_is_not_root(project: Project) -> None:
    """The controller's process is no root, has no capability and a read-only root."""
    status = project.inside("cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert project.container()["HostConfig"]["ReadonlyRootfs"] is True


def test_only_the_controller_has_the_docker_socket(project: Project, backends: dict[str, dict[str, Any]]) -> None:
    """No container of a backend mounts it."""
    assert backends
    home = project.inside("cat", "/var/lib/venvd/id")
    command = ["docker", "ps", "-q", "--filter", f"label=dev.venvd.home={home}"]
    keys = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(keys) == 6
    text = subprocess.run(["docker", "inspect", *keys], capture_output=True, text=True, check=True).stdout
    assert "docker.sock" not in text
    assert "docker.sock" in json.dumps(project.container()["Mounts"])


def test_backends_outlive_the_controllers_container(project: Project, backends: dict[str, dict[str, Any]]) -> None:
    """A controller that is replaced takes the backends over as they are."""
    before = {name: item["startedAt"] for name, item in backends.items()}
    project.compose("up", "--detach", "--wait", "--force-recreate")
    after = {item["name"]: item["startedAt"] for item in project.api("/v1/backends")["items"]}
    assert after == before


def test_make_down_takes_the_backends_along(project: Project, backends: dict[str, dict[str, Any]]) -> None:
    """Also those that `docker compose down` left running before."""
    label = f"label=dev.venvd.home={project.inside('cat', '/var/lib/venvd/id')}"
    mine = ["docker", "ps", "--all", "--quiet", "--filter", label]
    project.compose("down")
    assert len(subprocess.run(mine, capture_output=True, text=True, check=True).stdout.split()) == 2 * len(backends)
    env = {**project.env, "COMPOSE_PROJECT_NAME": project.name}
    subprocess.run([ROOT / "scripts" / "down"], env=env, capture_output=True, check=True)
    assert not subprocess.run(mine, capture_output=True, check=True).stdout
