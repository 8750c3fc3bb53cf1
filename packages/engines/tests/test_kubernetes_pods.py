"""The pods of the engine kubernetes, without a cluster: manifests, why they wait, and the layers that they push."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
from harness.pod_security import list_violations
from lightkube.resources.core_v1 import Pod

from venvd_contract.errors import InvalidRequest, NotFound, Unavailable, Unimplemented
from venvd_contract.internal.environment import WORKER_ENV
from venvd_engines.engine import EngineSettings, Image, Launch, WorkerLimits
from venvd_engines.kubernetes import closed, pods
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.controller_route import ControllerRoute, find_controller
from venvd_engines.kubernetes.engine import KubernetesEngine
from venvd_engines.kubernetes.login import Login
from venvd_engines.kubernetes.registry import read_credentials
from venvd_engines.kubernetes.settings import KubernetesSettings
from venvd_engines.kubernetes.tasks import Step, Tasks
from venvd_engines.kubernetes.waiting import explain_waiting, find_failure
from venvd_engines.kubernetes.way_out import make_broker_file
from venvd_engines.way_out import PROXY_PORT

KUBERNETES = KubernetesSettings(
    images={name: f"registry.example.com/venvd/{name}:1" for name in ("controller", "http", "rpc")},
    registry="registry.example.com/venvd",
    pull_secret="pull",
    node_selector={"pool": "python"},
    tolerations=({"key": "dedicated", "operator": "Exists"},),
    priority_class="low",
)
LAUNCH = Launch(
    id="0123456789ab",
    name="web",
    type="http",
    image=Image("key", "registry.example.com/venvd/venv@sha256:00", "3.13.5"),
    server_env={"VENVD_NAME": "web", "VENVD_TEXT": "$(HOME)"},
    limits=WorkerLimits(memory_bytes=1 << 30, cpus=1.5),
    user_id=200_007,
)


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(home=tmp_path, home_id="home", run_dir=tmp_path / "run", kubernetes=KUBERNETES)


def make_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


@pytest.mark.parametrize("version", ["1.34", "1.37"])
@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_backends_keep_to_restricted_security(settings: EngineSettings, kind: str, version: str) -> None:
    """The pod of a backend has the fields of Kubernetes, and all that a restricted namespace wants."""
    spec = pods.make_backend(settings, replace(LAUNCH, type=kind), "gvisor", "web.python.svc")
    kubernetes_validate.validate(make_pod(spec), version, strict=True)
    assert list_violations(spec) == []
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"pool": "python"}, "low")


def test_the_worker_host_sees_no_secret(settings: EngineSettings) -> None:
    """User code shares one volume with the server, which it cannot write, and none with keys."""
    spec = pods.make_backend(settings, LAUNCH, None, "web.python.svc")
    server, worker = spec["containers"]
    mounts = {each["name"]: each for each in worker["volumeMounts"]}
    shared = set(mounts) & {each["name"] for each in server["volumeMounts"]}
    assert shared == {"channel"}
    assert mounts["channel"]["readOnly"] is True
    assert worker["securityContext"]["runAsUser"] == LAUNCH.user_id != server["securityContext"]["runAsUser"]
    limits = worker["resources"]["limits"]
    assert limits == {"cpu": "1500m", "memory": str(1 << 30)}


@pytest.mark.parametrize(
    ("network", "closed", "names"),
    [(False, True, False), ("loopback", False, False), ("destinations", False, False), (True, False, True)],
)
def test_a_venv_with_network_has_sockets(settings: EngineSettings, network: Any, closed: bool, names: bool) -> None:
    """The warden of a venv without network is told so, since the containers of a pod share theirs."""
    spec = pods.make_backend(settings, replace(LAUNCH, network=network), None, "host")
    kubernetes_validate.validate(make_pod(spec), "1.37", strict=True)
    server, worker = spec["containers"]
    assert ("--no-network" in worker["args"]) is closed
    assert ("dnsConfig" not in spec) is names
    assert list_violations(spec) == []
    gate = [each["name"] for each in spec["initContainers"]][1:]
    assert gate == (["closed"] if network in {"loopback", "destinations"} else [])
    listed = network == "destinations"
    assert (f"http://127.0.0.1:{PROXY_PORT}" in str(worker["env"])) is listed
    assert ("VENVD_EGRESS_BROKER_FILE" in {each["name"] for each in server["env"]}) is listed


def test_a_pod_waits_until_it_is_closed() -> None:
    """A pod whose policies keep it from an address goes on; one that reaches the address does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not closed.wait_until_closed("127.0.0.1", port, 0.3)
    assert closed.wait_until_closed("127.0.0.1", port, 0.3)


def test_a_list_wants_a_broker(settings: EngineSettings) -> None:
    """Without the chart's broker a list of destinations is refused, and the value that brings one is named."""
    with pytest.raises(Unimplemented, match=r"egress\.enabled"):
        make_broker_file(Cluster(settings), replace(LAUNCH, network="destinations"))


@pytest.mark.parametrize(("name", "expected"), [(None, None), ("runc", None), ("runsc", "gvisor"), ("kata", "kata")])
def test_runtimes_are_runtime_classes(name: str | None, expected: str | None) -> None:
    """Docker's names of runtimes mean the same here, and all others are names of runtime classes."""
    assert pods.find_runtime_class(name) == expected


def test_user_namespaces_have_users_of_their_own(settings: EngineSettings) -> None:
    """With user namespaces a pod has the usual users, which have room in it; a runtime class has none."""
    namespaces = replace(settings, kubernetes=replace(KUBERNETES, user_namespaces=True))
    spec = pods.make_backend(namespaces, LAUNCH, None, "host")
    kubernetes_validate.validate(make_pod(spec), "1.37", strict=True)
    users = {each["securityContext"]["runAsUser"] for each in spec["containers"]}
    assert spec["hostUsers"] is False
    assert len(users) == 2
    assert max(users) < 1 << 16
    assert "hostUsers" not in pods.make_backend(namespaces, LAUNCH, "gvisor", "host")
    assert "hostUsers" not in pods.make_backend(settings, LAUNCH, None, "host")


def test_values_are_no_references(settings: EngineSettings) -> None:
    """Kubernetes does not replace what looks like a reference in a variable."""
    server, _ = pods.make_backend(settings, LAUNCH, None, "host")["containers"]
    assert {"name": "VENVD_TEXT", "value": "$$(HOME)"} in server["env"]


def test_an_image_that_no_setting_names_is_named(settings: EngineSettings) -> None:
    """A missing image is an error with the setting that lacks it."""
    with pytest.raises(InvalidRequest, match="VENVD_KUBERNETES_IMAGES names no image pipe"):
        pods.find_image(settings.kubernetes, "pipe")


def test_only_the_step_that_pushes_has_the_credentials(settings: EngineSettings) -> None:
    """The pod of a build keeps to restricted security; the push credentials are in one of its containers."""
    steps = [
        Step("install", "base", ["sh"], env={"UV_DEFAULT_INDEX": "https://user:word@index"}, mounts={"env": "/env"}),
        Step(
            "push", "controller", ["python"], mounts={"env": "/env"}, read_only=frozenset({"env"}), secret="push.secret"
        ),
    ]
    spec = Tasks(Cluster(settings))._make_spec("task", steps, ["uv"], 60)
    kubernetes_validate.validate(make_pod(spec), "1.37", strict=True)
    assert list_violations(spec) == []
    containers = [*spec["initContainers"], *spec["containers"]]
    assert [each["name"] for each in containers] == ["provide", "install", "push"]
    mounted = {each["name"]: {mount["name"] for mount in each["volumeMounts"]} for each in containers}
    assert [name for name, mounts in mounted.items() if "credentials-push-secret" in mounts] == ["push"]
    assert "word" not in json.dumps(spec)


def test_a_server_is_identified_by_its_images(tmp_path: Path) -> None:
    """Another image of the server, or of the controller with the worker archive, is another server."""

    def identify(**images: str) -> str | None:
        cluster = replace(KUBERNETES, images={**KUBERNETES.images, **images})
        settings = EngineSettings(home=tmp_path, home_id="home", run_dir=tmp_path, kubernetes=cluster)
        return KubernetesEngine(settings).identify_server("http")

    assert identify() == identify(rpc="registry.example.com/venvd/rpc:2")
    assert len({identify(), identify(http="h:2"), identify(controller="c:2")}) == 3
    assert identify(http="") is None


def test_homes_have_user_ids_of_their_own(tmp_path: Path, settings: EngineSettings) -> None:
    """The block of a home comes from its identity, so every controller of the home finds the same."""
    first = KubernetesEngine(settings).claim_user_ids()
    again = KubernetesEngine(settings).claim_user_ids()
    other = KubernetesEngine(replace(settings, home_id="other")).claim_user_ids()
    assert first == again
    assert not set(first) & set(other)
    assert len(first) == 1000


def make_status(**status: Any) -> Any:
    return Pod.from_dict({"metadata": {"name": "pod"}, "status": {"phase": "Pending", **status}})


def wait_for(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "worker", "image": "some:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}


@pytest.mark.parametrize(
    ("pod", "reason", "failure"),
    [
        (
            make_status(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]),
            "no node takes the pod: 0/3 nodes are available",
            None,
        ),
        (make_status(containerStatuses=[wait_for("ContainerCreating", "")]), "", None),
        (
            make_status(containerStatuses=[wait_for("ErrImagePull", "dial tcp: i/o timeout")]),
            "worker: ErrImagePull: dial tcp: i/o timeout",
            None,
        ),
        (make_status(containerStatuses=[wait_for("ErrImagePull", "some:1: not found")]), "some:1: not found", NotFound),
        (make_status(containerStatuses=[wait_for("InvalidImageName", "no name")]), "no name", InvalidRequest),
        (make_status(phase="Failed", reason="Evicted", message="The node was low on memory"), "", Unavailable),
    ],
)
def test_a_pod_that_waits_says_why(pod: Any, reason: str, failure: Any) -> None:
    """The reason of a pod that does not run is one line, and an error where time does not mend it."""
    assert explain_waiting(pod).endswith(reason)
    raised = find_failure(pod)
    assert (type(raised) if raised else None) is failure


def test_credentials_are_those_of_the_registry(tmp_path: Path) -> None:
    """A login of the Secret counts for its own registry alone."""
    (tmp_path / ".dockerconfigjson").write_text(
        json.dumps({"auths": {"https://registry.example.com/v1/": {"auth": "dXNlcjp3b3Jk"}}})
    )
    credentials = read_credentials(tmp_path)
    challenged = requests.Response()
    challenged.headers["WWW-Authenticate"] = 'Basic realm="images"'
    own, other = (Login(credentials, host) for host in ("registry.example.com", "other.example.com"))
    with requests.Session() as session:
        assert (own.answer(challenged, session), own.answer(challenged, session)) == (True, False)
        assert not other.answer(challenged, session)
    request = requests.Request("GET", "https://registry.example.com/v2/", auth=own).prepare()
    assert request.headers["Authorization"] == "Basic dXNlcjp3b3Jk"
    assert read_credentials(tmp_path / "absent") == {}


def test_a_server_has_the_address_of_the_controller(settings: EngineSettings) -> None:
    """It knows the name without DNS, and finds its key for venvs and the controller's certificate in the Secret."""
    alias = {"ip": "10.0.0.9", "hostnames": ["venvd.python.svc"]}
    files = {"VENVD_CONTROLLER_CA_FILE": Path("/etc/venvd/tls/tls.crt")}
    address = ControllerRoute("https://venvd.python.svc:8600", alias, files)
    spec = pods.make_backend(settings, replace(LAUNCH, manages_key="key"), None, "web.python.svc", address)
    kubernetes_validate.validate(make_pod(spec), "1.37", strict=True)
    assert (spec["hostAliases"], spec["dnsPolicy"]) == ([alias], "None")
    server, worker = ({each["name"]: each["value"] for each in part["env"]} for part in spec["containers"])
    wanted = {
        "VENVD_CONTROLLER_URL": "https://venvd.python.svc:8600",
        "VENVD_CONTROLLER_CA_FILE": "/run/venvd/keys/VENVD_CONTROLLER_CA_FILE",
        "VENVD_MANAGES_KEY_FILE": "/run/venvd/keys/manages.key",
    }
    assert wanted.items() <= server.items()
    assert not wanted.keys() & worker.keys()


@pytest.mark.parametrize(
    ("network", "manages", "reached"),
    [(False, False, True), (False, True, True), (True, False, False), (True, True, True), ("loopback", False, False)],
)
def test_the_servers_that_reach_the_controller(network: Any, manages: bool, reached: bool) -> None:
    """Servers do where user code has no sockets; with a network, only those that manage venvs; a router never does."""
    options = replace(KUBERNETES, controller_url="https://localhost:8600", controller_certificate=Path("/tls.crt"))
    launch = replace(LAUNCH, network=network, manages_key="key" if manages else None)
    address = find_controller(options, launch)
    assert (address is not None) is reached
    if address is not None:
        assert address.files == {"VENVD_CONTROLLER_CA_FILE": Path("/tls.crt")}
        assert address.alias is not None
        assert address.alias["hostnames"] == ["localhost"]
    assert find_controller(options, replace(launch, manages_key=None, router=True)) is None
    plain = find_controller(replace(options, controller_url="http://127.0.0.1:8600"), replace(launch, network=False))
    assert plain == ControllerRoute("http://127.0.0.1:8600", None, {})


@pytest.mark.parametrize(
    ("url", "network", "kind", "message"),
    [
        (None, False, InvalidRequest, "VENVD_URL of the controller"),
        ("http://localhost:8600", "destinations", InvalidRequest, "with a list of destinations in `network`"),
        ("http://nowhere.invalid", False, Unavailable, r"the name nowhere\.invalid of VENVD_URL has no address"),
    ],
)
def test_a_backend_that_cannot_manage_venvs(url: str | None, network: Any, kind: Any, message: str) -> None:
    """Its start is refused, and says why; without `manages`, the same backend starts."""
    options = replace(KUBERNETES, controller_url=url)
    launch = replace(LAUNCH, network=network, manages_key="key")
    with pytest.raises(kind, match=message):
        find_controller(options, launch)
    assert find_controller(options, replace(launch, manages_key=None)) is None


CLAIM = {"persistentVolumeClaim": {"claimName": "libraries", "readOnly": True}}


@pytest.mark.parametrize("part", ["", "team"])
def test_assemblies_are_a_volume_of_the_worker_host(settings: EngineSettings, part: str) -> None:
    """User code reads the volume, or a directory in it, and cannot write there; the server does not see it."""
    options = replace(KUBERNETES, assemblies={"/other": {"configMap": {"name": "other"}}, "/srv/libraries": CLAIM})
    launch = replace(LAUNCH, dotnet=True, assemblies=Path("/srv/libraries", part))
    spec = pods.make_backend(replace(settings, kubernetes=options), launch, None, "web.python.svc")
    kubernetes_validate.validate(make_pod(spec), "1.37", strict=True)
    assert list_violations(spec) == []
    assert [each for each in spec["volumes"] if each["name"] == "assemblies"] == [{"name": "assemblies", **CLAIM}]
    server, worker = spec["containers"]
    wanted = {"name": "assemblies", "mountPath": "/assemblies", "readOnly": True, **({"subPath": part} if part else {})}
    assert wanted in worker["volumeMounts"]
    assert "assemblies" not in {each["name"] for each in server["volumeMounts"]}
    [env] = [each["value"] for each in worker["env"] if each["name"] == WORKER_ENV]
    assert json.loads(env)["VENVD_ASSEMBLIES"] == "/assemblies"


def test_assemblies_without_a_volume(settings: EngineSettings) -> None:
    """A directory that no volume has is refused, and the error says where volumes are named."""
    with pytest.raises(InvalidRequest, match=r"no volume has /srv/x.*backends\.assemblies.*now none"):
        pods.make_backend(settings, replace(LAUNCH, assemblies=Path("/srv/x")), None, "web.python.svc")
