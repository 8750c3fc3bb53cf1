"""The pod of a client with a pipe backend beside it, without a cluster."""

from __future__ import annotations

import base64
import hashlib
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from harness.pod_security import list_violations

from venvd_contract.errors import InvalidRequest, Unimplemented
from venvd_engines.engine import EngineSettings, Image, Launch
from venvd_engines.kubernetes import pods, sidecars
from venvd_engines.kubernetes.settings import KubernetesSettings

TOKEN = "word"
KUBERNETES = KubernetesSettings(
    images={name: f"registry.example.com/venvd/{name}:1" for name in ("controller", "pipe")},
    pull_secret="pull",
    node_selector={"pool": "python"},
    tolerations=({"key": "dedicated", "operator": "Exists"},),
    priority_class="low",
)
LAUNCH = Launch(
    id="0123456789ab",
    name="calculator",
    type="pipe",
    image=Image("key", "registry.example.com/venvd/venv@sha256:00", "3.13.5"),
    server_env={"VENVD_NAME": "calculator"},
    preload=("json",),
    preload_timeout=30,
    user_id=200_007,
)


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(home=tmp_path, home_id="home", run_dir=tmp_path / "run", kubernetes=KUBERNETES)


def make(settings: EngineSettings, launch: Launch = LAUNCH, token: str | None = TOKEN, image: str | None = None) -> Any:
    return sidecars.make_manifest(settings, launch, token, image)


def find_containers(pod: Any) -> dict[str, Any]:
    return {each["name"]: each for each in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}


@pytest.mark.parametrize("version", ["1.34", "1.37"])
@pytest.mark.parametrize("runtime", [None, "runsc"])
def test_the_pod_keeps_to_restricted_security(settings: EngineSettings, runtime: str | None, version: str) -> None:
    """Secret and pod have the fields of Kubernetes, and all that a restricted namespace wants."""
    secret, pod = make(settings, replace(LAUNCH, oci_runtime=runtime))
    for each in (secret, pod):
        kubernetes_validate.validate(each, version, strict=True)
    spec = pod["spec"]
    assert list_violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "python"}, "low")
    annotations = pod["metadata"].get("annotations", {})
    assert spec.get("runtimeClassName") == (runtime and "gvisor")
    assert {name.split(".")[-2] for name in annotations} == ({"channel", "socket"} if runtime else set())


def test_no_controller_takes_the_pod_for_its_own(settings: EngineSettings) -> None:
    """The objects have no home: a controller would remove a pod of its home that it does not know."""
    for each in make(settings):
        assert not {"dev.venvd.home", "dev.venvd.launch", "dev.venvd.role"} & set(each["metadata"]["labels"])
        assert "ownerReferences" not in each["metadata"]


def test_the_pair_is_that_of_a_launch(settings: EngineSettings) -> None:
    """Server and worker host are those of a pod that the controller starts, and some fields more."""
    started = pods.make_backend(settings, LAUNCH, None, "localhost")
    containers = find_containers(make(settings)[1])
    for own in started["containers"]:
        printed = containers[own["name"]]
        for field in ("image", "securityContext", "resources", "terminationMessagePolicy"):
            assert printed[field] == own[field]
        for field in ("env", "volumeMounts", "args", "command"):
            assert printed.get(field, [])[: len(own.get(field, []))] == own.get(field, [])
    volumes = {each["name"] for each in make(settings)[1]["spec"]["volumes"]}
    assert volumes - {each["name"] for each in started["volumes"]} == {"socket", "no-credentials"}


def test_the_client_has_the_socket_alone(settings: EngineSettings) -> None:
    """The client shares one volume with the server, and none with user code."""
    containers = find_containers(make(settings, image="example.com/app:1")[1])
    mounts = {name: {each["name"] for each in one["volumeMounts"]} for name, one in containers.items()}
    assert mounts["client"] == {"socket"}
    assert "socket" in mounts["server"]
    assert mounts["server"] & mounts["worker"] == {"channel", "no-credentials"}
    assert {name for name, own in mounts.items() if "no-credentials" in own} == {"provide", "server", "worker"}
    assert (containers["client"]["image"], containers["client"].get("command")) == ("example.com/app:1", None)
    users = [containers[name]["securityContext"].get("runAsUser") for name in ("server", "worker")]
    assert len({*users, sidecars.CLIENT_UID}) == 3


def test_the_pair_starts_first_and_ends_last(settings: EngineSettings) -> None:
    """The worker host and the server are sidecars; the client starts when the server is ready."""
    pod = make(settings)[1]
    order = [(each["name"], each.get("restartPolicy")) for each in pod["spec"]["initContainers"]]
    assert order == [("provide", None), ("worker", "Always"), ("server", "Always")]
    containers = find_containers(pod)
    server, worker = containers["server"], containers["worker"]
    assert {"name": "VENVD_SIDECAR", "value": "1"} in server["env"]
    assert server["startupProbe"]["failureThreshold"] * server["startupProbe"]["periodSeconds"] == 90
    paths = {name: server[f"{name}Probe"]["exec"]["command"][-1] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    cleared = [path for word, path in zip(worker["args"], worker["args"][1:], strict=False) if word == "--clear"]
    written = {each["mountPath"] for each in worker["volumeMounts"] if not each.get("readOnly")}
    assert set(cleared) == written
    assert "startupProbe" not in worker


def test_another_token_changes_the_secret_alone(settings: EngineSettings) -> None:
    """The pod has no token in it, and reads both from its Secret; the server has its digest alone."""
    (secret, pod), (other_secret, other_pod) = make(settings), make(settings, token="other")
    assert pod == other_pod
    assert secret != other_secret
    content = {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}
    assert content["token"] == TOKEN
    assert content["token-sha256"] == hashlib.sha256(TOKEN.encode()).hexdigest()
    containers = find_containers(pod)
    references = {
        name: {
            each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in one.get("env", []) if "valueFrom" in each
        }
        for name, one in containers.items()
    }
    assert references == {
        "provide": {},
        "worker": {},
        "server": {"VENVD_TOKEN_SHA256": "token-sha256"},
        "client": {"VENVD_BACKEND_TOKEN": "token"},
    }
    [keys] = [each["secret"] for each in pod["spec"]["volumes"] if each["name"] == "keys"]
    assert [each["key"] for each in keys["items"]] == ["keys.json", "secrets.json"]


def test_a_backend_without_a_token_has_none(settings: EngineSettings) -> None:
    """Without a token, neither the Secret nor a container has one."""
    secret, pod = make(settings, token=None)
    assert set(secret["data"]) == {"keys.json", "secrets.json"}
    assert "secretKeyRef" not in str(pod)


@pytest.mark.parametrize(("network", "closed"), [(False, True), (True, False)])
def test_only_user_code_lacks_the_network(settings: EngineSettings, network: bool, closed: bool) -> None:
    """The client looks names up as any pod does; the warden of a venv without network is told so."""
    pod = make(settings, replace(LAUNCH, network=network))[1]
    assert ("--no-network" in find_containers(pod)["worker"]["args"]) is closed
    assert "dnsPolicy" not in pod["spec"]


@pytest.mark.parametrize(
    ("fields", "kind", "named"),
    [
        ({"network": "loopback"}, Unimplemented, "network: loopback"),
        ({"network": "destinations"}, Unimplemented, "network: a list"),
        ({"assemblies": Path("/a")}, Unimplemented, "assemblies"),
        ({"type": "http"}, InvalidRequest, "type: "),
    ],
)
def test_what_such_a_pod_lacks_is_named(settings: EngineSettings, fields: Any, kind: Any, named: str) -> None:
    """What a client's pod does not have is refused."""
    with pytest.raises(kind, match=named):
        make(settings, replace(LAUNCH, **fields))


@pytest.mark.parametrize("answer", ["200 OK", "503 Service Unavailable"])
def test_the_probe_reads_the_status(tmp_path: Path, answer: str) -> None:
    """The program of the probes ends well where the server answers 200, and only there."""
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                assert b"GET /readyz " in connection.recv(1000)
                connection.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())

        server = threading.Thread(target=serve)
        server.start()
        command = [sys.executable, "-I", "-S", "-c", sidecars.PROBE, str(path), "/readyz"]
        assert subprocess.run(command, check=False, timeout=60).returncode == (0 if "200" in answer else 1)
        server.join()
