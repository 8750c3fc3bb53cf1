"""The engine on a cluster whose namespace enforces restricted pod security, driven from outside of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.kubernetes import REGISTRY_URL, Namespace, find_ca_bundle, make_namespace, read_values
from harness.pod_security import list_violations
from harness.stack import Quiet, Running, Stack, make_home_id
from harness.waiting import wait_until
from lightkube.resources.core_v1 import Secret, Service

import venvd
from venvd_contract.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from venvd_engines.engine import EngineSettings, Launch, Port, VenvBuild
from venvd_engines.kubernetes import backends, labels
from venvd_engines.kubernetes.engine import KubernetesEngine
from venvd_engines.kubernetes.policies import Policies
from venvd_engines.kubernetes.settings import KubernetesSettings

PYTHON = "3.13"


def make_engine(home: Path, namespace: str, **settings: Any) -> KubernetesEngine:
    values = read_values()
    kubernetes = KubernetesSettings(
        namespace=namespace,
        images=values["images"],
        registry=values["registry"]["prefix"],
        registry_url=REGISTRY_URL,
        **settings,
    )
    return KubernetesEngine(
        EngineSettings(
            home=home,
            home_id=make_home_id(),
            run_dir=home / "run",
            base_image=values.get("baseImage"),
            ca_bundle=find_ca_bundle(),
            kubernetes=kubernetes,
        )
    )


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with make_namespace("engine") as made:
        made.restrict()
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kubernetes")


@pytest.fixture(scope="module")
def stack(namespace: Namespace, home: Path) -> Iterator[Stack]:
    """An engine with a venv that holds six; at its end nothing of it is left in the namespace."""
    engine = make_engine(home, namespace.name)
    engine.check()
    runtime = engine.resolve(PYTHON, Quiet())
    image = engine.build(VenvBuild(runtime, engine.lock(runtime, ["six"], Quiet())), Quiet())
    yield Stack(engine, image, home, home / "run")
    for owned in engine.list_owned():
        engine.destroy_owned(owned)
    engine.sweep()
    engine.remove_image(image.key)
    assert engine.find_image(image.key) is None
    wait_until(lambda: not namespace.list_names(), lambda: f"left: {namespace.list_names()}")
    engine.close()


@pytest.fixture(scope="module")
def web(stack: Stack) -> Running:
    return stack.start("http")


def make_launch(stack: Stack, **fields: Any) -> Launch:
    digest = hashlib.sha256(b"word").hexdigest()
    launch = Launch(
        id=secrets.token_hex(6),
        name="launch",
        type="http",
        image=stack.image,
        server_env={"VENVD_NAME": "launch", "VENVD_TOKEN_SHA256": digest},
        ports=(Port("main", 5678, 5678),),
        user_id=stack.engine.claim_user_ids()[7],
    )
    return dataclasses.replace(launch, **fields)


@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_a_venv_is_built_and_called(stack: Stack, web: Running, kind: str) -> None:
    """A backend of a venv that pods have built runs code with its packages."""
    running = web if kind == "http" else stack.start(kind)
    with venvd.connect(running.url, token=running.token) as backend:
        version = backend.eval("__import__('six').__version__")
        assert [("six", version)] == [(package.name, package.version) for package in stack.image.packages]
        assert backend.eval("__import__('platform').python_version()").startswith(PYTHON)
    if running is not web:
        stack.stop(running)


def test_equal_venvs_are_equal_bit_for_bit(stack: Stack, namespace: Namespace, tmp_path: Path) -> None:
    """Another home that builds the same key gets an image of the same digest."""
    other = make_engine(tmp_path, namespace.name)
    runtime = other.resolve(PYTHON, Quiet())
    lock = other.lock(runtime, ["six"], Quiet())
    image = other.build(VenvBuild(runtime, lock), Quiet())
    assert (image.key, image.ref, image.packages) == (stack.image.key, stack.image.ref, stack.image.packages)
    other.close()


def test_requirements_that_contradict_are_named(stack: Stack) -> None:
    """A lock that cannot be is an error of the request, with the packages in it."""
    runtime = stack.engine.resolve(PYTHON, Quiet())
    with pytest.raises(InvalidRequest, match="six"):
        stack.engine.lock(runtime, ["six==1.16", "six==1.17"], Quiet())


def test_pods_are_hardened(web: Running, namespace: Namespace) -> None:
    """The pod keeps to restricted security, has no token of the cluster, and its halves have users of their own."""
    [pod] = [
        each for each in namespace.get("pods") if each["metadata"]["labels"][labels.LAUNCH] == web.record.launch_id
    ]
    spec = pod["spec"]
    assert list_violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert len({each["securityContext"]["runAsUser"] for each in spec["containers"]}) == 2
    assert all(each["resources"]["requests"]["memory"] for each in spec["containers"])


def test_user_code_has_no_network(web: Running) -> None:
    """Sockets of a venv without network are refused, although the pod has a network."""
    with venvd.connect(web.url, token=web.token) as backend:
        for family in ("AF_INET", "AF_INET6"):
            with pytest.raises(venvd.UserError, match="Address family"):
                backend.eval(f"__import__('socket').socket(__import__('socket').{family})")
        assert backend.eval("__import__('os').path.exists('/var/run/secrets/kubernetes.io')") is False


def test_gvisor_is_a_kernel_of_its_own(stack: Stack, namespace: Namespace) -> None:
    """`ociRuntime: runsc` is the runtime class `gvisor`, where the cluster has it; a class that is absent is named."""
    with pytest.raises(Forbidden, match="no-such-class"):
        stack.start("http", oci_runtime="no-such-class")
    if "gvisor" not in namespace.kubectl("get", "runtimeclass", "--output", "name"):
        pytest.skip("the cluster has no runtime class gvisor")
    running = stack.start("http", oci_runtime="runsc")
    with venvd.connect(running.url, token=running.token) as backend:
        kernel = backend.eval("__import__('platform').release()")
        assert kernel != platform.release()
        with pytest.raises(venvd.UserError, match="Address family"):
            backend.eval("__import__('socket').socket()")
    stack.stop(running)


def test_user_namespaces_hide_the_users_of_the_node(stack: Stack, namespace: Namespace, tmp_path: Path) -> None:
    """With user namespaces, the user of a worker host is none of the node's first 65,536, and its venv works."""
    engine = make_engine(tmp_path, namespace.name, user_namespaces=True)
    running = Stack(engine, stack.image, tmp_path, tmp_path / "run").start("http")
    with venvd.connect(running.url, token=running.token) as backend:
        inside, outside, count = backend.eval("list(map(int, open('/proc/self/uid_map').read().split()))")
        assert (inside, count) == (0, 65536)
        assert outside >= 65536
        assert backend.eval("__import__('six').__name__") == "six"
    engine.stop(running.record, 2.0)
    engine.destroy(running.record)
    engine.close()


def test_a_stop_loses_no_running_call(stack: Stack) -> None:
    """A call that runs when its backend stops gets its answer, and then both containers have ended well."""
    running = stack.start("rpc")
    results: list[Any] = []
    with venvd.connect(running.url, token=running.token) as backend:
        backend.eval("1")

        def call() -> None:
            results.append(backend.eval("(__import__('time').sleep(2), 'done')[1]"))

        caller = threading.Thread(target=call)
        caller.start()
        with venvd.connect(running.url, token=running.token) as other:
            wait_until(lambda: other.sessions.get("default").state == "busy", "the call does not run")
        stack.engine.stop(running.record, 10.0)
        caller.join()
    assert results == ["done"]
    stack.engine.destroy(running.record)


def test_a_deleted_pod_is_missing(stack: Stack, namespace: Namespace) -> None:
    """`inspect` shows that a pod is gone, and `destroy` removes what it left."""
    running = stack.start("rpc")
    namespace.kubectl("delete", "pod", labels.make_name(running.record.launch_id), "--now")

    def is_missing() -> bool:
        state = stack.engine.inspect(running.record)
        return state.server.state == state.worker.state == "missing"

    wait_until(is_missing, "the pod does not go")
    stack.engine.destroy(running.record)
    assert running.record.launch_id not in {owned.launch_id for owned in stack.engine.list_owned()}


def test_new_keys_arrive(stack: Stack, web: Running) -> None:
    """A running server takes a key that was written after its start."""
    entry = {"name": "new", "sha256": hashlib.sha256(b"new-key").hexdigest(), "scope": "use", "expiresAt": None}
    stack.engine.write_keys(web.record, json.dumps({"keys": [entry]}).encode())

    def answers() -> bool:
        try:
            with venvd.connect(web.url, token="new-key") as backend:
                return bool(backend.eval("6 * 7") == 42)
        except (Unauthenticated, venvd.VenvdError):
            return False

    wait_until(answers, "the key does not arrive", 20)


def test_a_start_says_why_it_fails(stack: Stack, namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start that cannot be says why, and leaves nothing."""
    before = namespace.list_names()
    gone = dataclasses.replace(stack.image, ref=f"{stack.image.ref.partition('@')[0]}@sha256:{'0' * 64}")
    with pytest.raises(NotFound, match="is not in its registry"):
        stack.engine.start(make_launch(stack, image=gone), Quiet())
    monkeypatch.setattr(backends, "START_SECONDS", 2.0)
    choosy = make_engine(stack.home, namespace.name, node_selector={"no": "such"})
    with pytest.raises(Unavailable, match=r"no node takes the pod: .*node"):
        choosy.start(make_launch(stack), Quiet())
    choosy.close()
    namespace.kubectl("create", "quota", "none", "--hard=pods=0")
    try:
        wait_until(lambda: namespace.get("quota")[0].get("status", {}).get("used"), "the quota does not count")
        with pytest.raises(Unavailable, match="exceeded quota"):
            stack.engine.start(make_launch(stack), Quiet())
    finally:
        namespace.kubectl("delete", "quota", "none")
    wait_until(lambda: namespace.list_names() == before, lambda: namespace.list_names() ^ before)


def test_a_service_of_others_stays(stack: Stack, namespace: Namespace) -> None:
    """A name that a Service of the namespace has is a conflict, and that Service stays."""
    namespace.kubectl("create", "service", "clusterip", "taken", "--tcp=80")
    with pytest.raises(Conflict, match='has a Service "taken"'):
        stack.engine.start(make_launch(stack, name="taken"), Quiet())
    assert "Service/taken" in namespace.list_names()
    namespace.kubectl("delete", "service", "taken")


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"type": "pipe"}, Unimplemented, "no pipe backend is started: `venvd backend manifest"),
        ({"network": "loopback"}, InvalidRequest, "network: loopback needs NetworkPolicies"),
        ({"network": True, "server_env": {"VENVD_NO_TOKEN": "1"}}, InvalidRequest, "needs a token"),
        ({"server_files": {"VENVD_TLS_CERT": Path("/cert")}}, InvalidRequest, r"cannot read /cert .*tlsSecrets"),
        ({"manages_key": "key"}, InvalidRequest, "manages: VENVD_URL of the controller"),
    ],
)
def test_what_is_missing_is_named(stack: Stack, fields: dict[str, Any], kind: Any, message: str) -> None:
    """What the engine does not have is refused before anything is made."""
    with pytest.raises(kind, match=message):
        stack.engine.start(make_launch(stack, **fields), Quiet())


def test_no_user_code_starts_in_an_open_pod(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the probe was wrong, the pod itself finds that it is open, and its start fails."""
    monkeypatch.setattr(Policies, "require", lambda *_: None)
    with pytest.raises(Unavailable, match=r"closed ended with status 3: the pod still reaches .*NetworkPolicies"):
        stack.engine.start(make_launch(stack, network="loopback"), Quiet())


@pytest.mark.parametrize("service", [None, "half", "half--address"])
def test_half_a_launch_is_found_and_removed(stack: Stack, namespace: Namespace, service: str | None) -> None:
    """What a killed controller left of a start is listed as incomplete, and removed with a Service of any name."""
    cluster = stack.engine._cluster
    before = namespace.list_names()
    launch_id = secrets.token_hex(6)
    wanted = cluster.labels(labels.BACKEND, launch=launch_id, name="half", type="http")
    cluster.create(Secret, {"metadata": cluster.make_metadata(labels.make_name(launch_id), wanted)})
    if service is not None:
        ports = [{"port": 5678, "protocol": "TCP"}]
        cluster.create(Service, {"metadata": cluster.make_metadata(service, wanted), "spec": {"ports": ports}})
    [owned] = [each for each in stack.engine.list_owned() if each.launch_id == launch_id]
    assert (owned.name, owned.record, owned.complete) == ("half", None, False)
    stack.engine.destroy_owned(owned)
    assert namespace.list_names() <= before


def test_logs_name_their_half(stack: Stack, web: Running) -> None:
    """Log lines carry the half that wrote them, in the order of their times; `tail` takes the last ones."""
    lines = list(stack.engine.logs(web.record, None, follow=False))
    assert any("HTTP on port" in line.text for line in lines if line.source == "server")
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    [last] = stack.engine.logs(web.record, 1, follow=False)
    assert last.time >= lines[-1].time


def test_logs_follow_until_the_end(stack: Stack) -> None:
    """With `follow`, lines come as they are written, each once, and the sequence ends with the backend."""
    running = stack.start("rpc")
    lines: list[str] = []

    def follow() -> None:
        for line in stack.engine.logs(running.record, None, follow=True):
            lines.append(f"{line.time} {line.text}")  # noqa: PERF401 - the test reads them meanwhile

    follower = threading.Thread(target=follow)
    follower.start()
    with venvd.connect(running.url, token=running.token) as backend, pytest.raises(venvd.UserError):
        backend.eval("1 / 0")
    wait_until(
        lambda: any("ZeroDivisionError" in line for line in lines) or not follower.is_alive(), "no line comes", 30
    )
    stack.stop(running)
    follower.join(30)
    assert not follower.is_alive()
    assert any("ZeroDivisionError" in line for line in lines)
    assert len(lines) == len(set(lines))
