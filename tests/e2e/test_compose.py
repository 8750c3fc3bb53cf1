"""`docker compose up --wait`: a controller with its manifest's backends, as an operator runs it."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import make_authority, make_certificate
from harness.compose import ComposeProject, list_containers, running_project
from harness.ports import free_port
from harness.stack import ROOT
from harness.waiting import TIMEOUT, wait_until

import venvd
from venvd.errors import Unavailable

Backends = dict[str, dict[str, Any]]

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.long]

MANIFEST = """
venvs:
  - {name: default, requirements: []}
backends:
  - {name: web, type: http, port: HTTP}
  - {name: calls, type: rpc, port: RPC}
  - {name: pipe, type: pipe}
  - {name: open, type: pipe, token: false, server: {socketUids: [65534]}}
"""


@pytest.fixture(scope="module")
def host_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory whose files specifications may name."""
    directory = tmp_path_factory.mktemp("allowed")
    for each in (directory, directory.parent):
        each.chmod(0o755)  # controller and servers have other user IDs
    return directory


@pytest.fixture(scope="module")
def project(host_dir: Path) -> Iterator[ComposeProject]:
    manifest = MANIFEST.replace("HTTP", str(free_port())).replace("RPC", str(free_port()))
    with running_project(manifest, {"VENVD_TAG": "test", "VENVD_HOST_DIRS": str(host_dir)}) as project:
        yield project


@pytest.fixture(scope="module")
def backends(project: ComposeProject) -> Backends:
    """The manifest's backends; all of them run."""
    current: dict[str, dict[str, Any]] = {}

    def are_running() -> bool:
        current.update({backend["name"]: backend for backend in project.api("GET", "/v1/backends")["items"]})
        return len(current) == 4 and all(backend["state"] == "running" for backend in current.values())

    wait_until(are_running, lambda: f"not all backends run: {current}", 300)
    return current


def test_the_manifests_backends_run(backends: Backends) -> None:
    """One command starts a backend of each type, at the named ports and in the named run directory."""
    assert {item["type"] for item in backends.values()} == {"http", "rpc", "pipe"}
    assert backends["web"]["url"].startswith("http://127.0.0.1:")
    assert backends["calls"]["url"].startswith("grpc://127.0.0.1:")
    assert Path(backends["pipe"]["url"].removeprefix("unix://")).is_socket()


@pytest.mark.needs("nc")
def test_a_program_on_the_host_uses_the_socket(backends: Backends) -> None:
    """`nc -U` sends one line of JSON and gets one line back."""
    item = backends["pipe"]
    line = json.dumps({"command": "eval", "payload": {"expression": "6 * 7"}, "token": item["token"]})
    path = item["url"].removeprefix("unix://")
    answer = subprocess.run(
        ["nc", "-N", "-U", path], input=line + "\n", capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert json.loads(answer.stdout) == {"result": {"value": 42}}


@pytest.mark.needs("setpriv")
def test_the_socket_without_a_token_is_for_a_group(backends: Backends) -> None:
    """A user that the backend names uses its pipe without a token as a member of the group 10000, and only so."""
    path = backends["open"]["url"].removeprefix("unix://")
    line = json.dumps({"command": "eval", "payload": {"expression": "6 * 7"}})
    code = (
        "import socket, sys; client = socket.socket(socket.AF_UNIX); client.connect(sys.argv[1]); "
        "client.sendall(sys.argv[2].encode() + b'\\n'); print(client.makefile().readline())"
    )
    outcomes = {}
    for group in ("10000", "65534"):
        become = ["setpriv", "--reuid=65534", f"--regid={group}", "--clear-groups"]
        command = [*become, "/usr/bin/python3", "-I", "-c", code, path, line]
        outcomes[group] = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert json.loads(outcomes["10000"].stdout) == {"result": {"value": 42}}
    assert "PermissionError" in outcomes["65534"].stderr


def test_another_container_uses_the_socket(project: ComposeProject, backends: Backends) -> None:
    """A container without a network that mounts the socket's directory runs Python through it."""
    project.env["VENVD_PIPE_TOKEN"] = backends["pipe"]["token"]
    project.env["VENVD_PIPE_DIR"] = str(Path(backends["pipe"]["url"].removeprefix("unix://")).parent)
    output = project.compose("run", "--rm", "--no-deps", "example", "6 * 7")
    assert json.loads(output) == {"result": {"value": 42}}


def test_a_program_on_the_host_uses_the_port(backends: Backends) -> None:
    """The published port answers a request with the backend's token."""
    item = backends["web"]
    connection = http.client.HTTPConnection(item["url"].removeprefix("http://"), timeout=TIMEOUT)
    connection.request("POST", "/api/eval", '{"expression": "6 * 7"}', {"Authorization": f"Bearer {item['token']}"})
    assert json.loads(connection.getresponse().read()) == {"value": 42}
    connection.close()


def test_the_controller_is_not_root(project: ComposeProject) -> None:
    """The controller's process has another user than root, no capability and a read-only root directory."""
    status = project.run_in_controller("cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == 0
    assert project.inspect("controller")["HostConfig"]["ReadonlyRootfs"] is True


def test_the_controller_can_use_postgresql(project: ComposeProject) -> None:
    """The image has the driver: an address where no database answers is the only thing that is wrong."""
    code = """
from venvd_controller.database import open_database
try:
    open_database("postgresql+psycopg://someone@127.0.0.1:9/none?connect_timeout=5")
except Exception as error:
    print(repr(error))
"""
    said = project.run_in_controller("/opt/venv/bin/python", "-c", code)
    assert "ModuleNotFoundError" not in said
    assert "refused" in said


def test_only_the_controller_has_the_docker_socket(project: ComposeProject, backends: Backends) -> None:
    """No container of a backend mounts it."""
    containers = list_containers(project.read_home_id())
    assert len(containers) == 2 * len(backends)
    text = subprocess.run(["docker", "inspect", *containers], capture_output=True, text=True, check=True).stdout
    assert "docker.sock" not in text
    assert "docker.sock" in json.dumps(project.inspect("controller")["Mounts"])


@pytest.mark.needs("openssl")
def test_files_of_the_host(project: ComposeProject, backends: Backends, host_dir: Path) -> None:
    """A backend has files of the host from VENVD_HOST_DIRS; the error of a start names one that is gone."""
    assert backends
    certificate, key = host_dir / "tls.crt", host_dir / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    key.chmod(0o644)
    spec = {
        "type": "rpc",
        "venv": "default",
        "name": "tls",
        "server": {"tlsCert": str(certificate), "tlsKey": str(key)},
    }
    refused = project.api("POST", "/v1/backends", {**spec, "server": {"tlsCert": "/etc/hosts", "tlsKey": str(key)}})
    assert (refused["code"], "VENVD_HOST_DIRS" in refused["detail"]) == ("forbidden", True)
    assert project.api("POST", "/v1/backends", spec)["backend"]["name"] == "tls"

    def read() -> dict[str, Any]:
        backend: dict[str, Any] = project.api("GET", "/v1/backends/tls")
        return backend if backend["state"] in {"running", "failed"} else {}

    assert wait_until(read, "the backend is still starting")["state"] == "running"
    certificate.unlink()
    restart = project.api("POST", "/v1/backends/tls/restart")["operation"]

    def ended() -> dict[str, Any]:
        operation: dict[str, Any] = project.api("GET", f"/v1/operations/{restart['id']}")
        return operation if operation["state"] in {"succeeded", "failed"} else {}

    operation = wait_until(ended, "the restart goes on")
    assert operation["state"] == "failed"
    assert f"{certificate} does not exist" in operation["error"]["detail"]
    project.api("DELETE", "/v1/backends/tls")


@pytest.mark.needs("openssl")
def test_the_controller_speaks_tls(project: ComposeProject, backends: Backends) -> None:
    """With the files of `VENVD_TLS_DIR` it is healthy, its port speaks TLS only, and the backends run on."""
    folder, plain = project.directory / "tls", dict(project.env)
    folder.mkdir()
    authority, (cert, key) = make_authority(folder), make_certificate(folder, "controller")
    project.env |= {"VENVD_TLS_DIR": str(folder), "VENVD_TLS_CERT": str(cert), "VENVD_TLS_KEY": str(key)}
    try:
        project.compose("up", "--detach", "--wait")
        token = project.run_in_controller("cat", "/var/lib/venvd/token")
        with venvd.Controller(f"https://localhost:{project.port}", token, ca=str(authority)) as controller:
            states = {backend.name: backend.state for backend in controller.backends.list()}
        assert states == dict.fromkeys(backends, "running")
        url = f"http://localhost:{project.port}"
        with venvd.Controller(url, token) as client, pytest.raises(Unavailable, match="begins with https://"):
            client.backends.list()
    finally:
        project.env = plain
        project.compose("up", "--detach", "--wait")


def test_backends_outlive_the_controllers_container(project: ComposeProject, backends: Backends) -> None:
    """A new controller container adopts the running backends."""
    before = {name: item["startedAt"] for name, item in backends.items()}
    project.compose("up", "--detach", "--wait", "--force-recreate")
    after = {item["name"]: item["startedAt"] for item in project.api("GET", "/v1/backends")["items"]}
    assert after == before


def test_destroyed_state_comes_back(project: ComposeProject, backends: Backends) -> None:
    """A backup of the running controller goes into a new volume: token, backends and their addresses are the same."""
    before = {name: (item["startedAt"], item["url"], item["token"]) for name, item in backends.items()}
    token = project.run_in_controller("cat", "/var/lib/venvd/token")
    run = ("run", "--rm", "--no-deps", "-T", "controller")
    backup = project.stream(*run, "backup", "-")
    project.compose("rm", "--stop", "--force", "controller")
    subprocess.run(["docker", "volume", "rm", f"{project.name}_state"], capture_output=True, check=True)
    project.stream(*run, "restore", "-", data=backup)
    project.compose("up", "--detach", "--wait")
    assert project.run_in_controller("cat", "/var/lib/venvd/token") == token
    items = project.api("GET", "/v1/backends")["items"]
    assert {item["name"]: (item["startedAt"], item["url"], item["token"]) for item in items} == before


def test_make_down_removes_the_backends(project: ComposeProject, backends: Backends) -> None:
    """`make down` also removes backends that an earlier `docker compose down` left running."""
    home = project.read_home_id()
    project.compose("down")
    assert len(list_containers(home, "--all")) == 2 * len(backends)
    env = {**project.env, "COMPOSE_PROJECT_NAME": project.name}
    subprocess.run([ROOT / "scripts" / "down"], env=env, capture_output=True, check=True)
    assert not list_containers(home, "--all")
