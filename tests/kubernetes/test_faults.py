"""What happens behind a controller's back on a cluster: its backends run again, once, and nothing else is left."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness.api_proxy import CutError, Request
from harness.cluster_controller import PYTHON, ClusterController, prepared_on_cluster
from harness.cluster_faults import ClusterFaults
from harness.controller import unique
from harness.gate import Gate
from harness.kubernetes import REGISTRY_URL, find_host_address, read_values, run
from harness.updates import interrupt_update
from harness.waiting import wait_until


@pytest.fixture(scope="module")
def registry() -> Iterator[Gate]:
    """The way of this module's pods and controllers to the registry."""
    address = REGISTRY_URL or f"https://{read_values()['registry']['prefix'].partition('/')[0]}"
    parts = urlsplit(address)
    if parts.scheme != "http":
        pytest.skip(f"the registry {address} speaks TLS, and a gate in front of it has no certificate")
    assert parts.hostname
    gate = Gate((parts.hostname, parts.port or 80), host=find_host_address())
    yield gate
    gate.shut()


@pytest.fixture(scope="module")
def controller(registry: Gate) -> Iterator[ClusterController]:
    url = f"http://{registry.host}:{registry.port}"
    with prepared_on_cluster("faults", VENVD_KUBERNETES_REGISTRY_URL=url) as prepared:
        prepared.start().venv("bare", python=PYTHON)
        yield prepared


@pytest.fixture
def backend(controller: ClusterController) -> Iterator[dict[str, Any]]:
    """A backend that runs; after the test nothing of it is left."""
    started = controller.backend("bare", name=unique("hit"))
    yield started
    controller.delete_backend(started["name"])
    controller.await_objects()


@pytest.fixture
def passing(controller: ClusterController) -> Iterator[None]:
    """After the test requests pass the proxy unchanged."""
    yield
    controller.proxy.see = lambda _request: None
    controller.proxy.rewrite = lambda path: path


def delete(controller: ClusterController, pod: str) -> None:
    controller.namespace.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def evict(controller: ClusterController, pod: str) -> None:
    """Evict a pod as the drain of a node does."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    file = controller.home / "eviction.json"
    file.write_text(json.dumps(eviction))
    path = f"/api/v1/namespaces/{controller.namespace.name}/pods/{pod}/eviction"
    run("kubectl", "create", "--raw", path, "-f", file)


def fail(controller: ClusterController, pod: str) -> None:
    """Let the node end a pod, which stays as a failed one, as an evicted pod does."""
    controller.namespace.kubectl("patch", "pod", pod, "--patch", '{"spec": {"activeDeadlineSeconds": 1}}')


def end_server(controller: ClusterController, pod: str) -> None:
    code = "import os; os.kill(1, 15)"
    controller.namespace.kubectl("exec", pod, "--container=server", "--", "python", "-c", code, check=False)


def await_restart(controller: ClusterController, name: str) -> None:
    """Wait until a backend runs that was restarted once, with one pod."""
    wait_until(lambda: controller.api("GET", f"/v1/backends/{name}")["restarts"], controller.read_log)
    controller.check_answers(name)
    assert controller.api("GET", f"/v1/backends/{name}")["restarts"] == 1
    controller.await_objects(name)


@pytest.mark.parametrize("fault", [delete, evict, fail, end_server])
def test_a_lost_pod_is_replaced(
    controller: ClusterController, backend: dict[str, Any], fault: Callable[[ClusterController, str], None]
) -> None:
    """A backend whose pod is deleted, drained, failed by its node or half ended runs again: one pod, one restart."""
    [pod] = controller.list_pods(backend["name"])
    fault(controller, pod["metadata"]["name"])
    await_restart(controller, backend["name"])


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_pod_with_a_killed_container_is_replaced(
    controller: ClusterController, backend: dict[str, Any], faults: ClusterFaults, part: str
) -> None:
    """A backend one of whose containers is killed runs again: one pod, one restart."""
    [pod] = controller.list_pods(backend["name"])
    faults.kill(pod, part)
    await_restart(controller, backend["name"])


@pytest.mark.usefixtures("passing")
def test_a_start_whose_pod_is_deleted_fails(controller: ClusterController) -> None:
    """A start that loses its pod says so, and leaves nothing."""
    name = unique("gone")

    def see(request: Request) -> None:
        content = request.content if request.method == "POST" and request.moment == "after" else {}
        if content.get("kind") == "Pod":
            delete(controller, content["metadata"]["name"])

    controller.proxy.see = see
    started = controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
    error = controller.wait(started["operation"])["error"]
    assert (error["code"], error["detail"]) == ("unavailable", "the pod was deleted while it started")
    controller.await_objects()
    controller.delete_backend(name)


@pytest.mark.usefixtures("passing")
def test_a_failed_start_leaves_nothing_when_the_cluster_is_back(controller: ClusterController) -> None:
    """What a start could not remove, since the API server went away, is removed later, without any request."""
    name = unique("cut")
    gone = threading.Event()

    def see(request: Request) -> None:
        if gone.is_set():
            raise CutError
        if request.moment == "after" and request.content.get("kind") == "Pod":
            gone.set()
            raise CutError

    controller.proxy.see = see
    started = controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
    ended = controller.wait(started["operation"])
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unavailable")
    assert f"Pod/{name}" in controller.list_objects()
    gone.clear()
    controller.proxy.see = lambda _request: None
    controller.await_objects()
    assert controller.api("GET", f"/v1/backends/{name}")["state"] == "failed"
    controller.delete_backend(name)


@pytest.mark.usefixtures("passing")
@pytest.mark.parametrize("phase", ["start", "ready", "idle"])
def test_an_update_whose_controller_is_killed(controller: ClusterController, phase: str) -> None:
    """The next controller ends it, and nothing of the former pod is left."""
    interrupt_update(controller, PYTHON, "http", phase, lambda name: len(controller.list_pods(name)))
    controller.await_objects()


def test_an_expired_watch_is_begun_anew(controller: ClusterController, backend: dict[str, Any]) -> None:
    """Where the API server has forgotten the version of a watch, it answers 410; pods are listed, and ends are told."""
    asked: list[str] = []
    expired = threading.Event()

    def rewrite(path: str) -> str:
        place, _, query = path.partition("?")
        if place.endswith("/pods"):
            if expired.is_set():
                asked.append("watch" if "watch=true" in query else "list")
            elif "watch=true" in query:
                expired.set()
                words = ["resourceVersion=1" if "resourceVersion=" in word else word for word in query.split("&")]
                return f"{place}?{'&'.join(words)}"
        return path

    controller.proxy.rewrite = rewrite
    wait_until(lambda: "watch" in asked, "no watch begins after the expired one")
    assert asked[0] == "list"
    [pod] = controller.list_pods(backend["name"])
    delete(controller, pod["metadata"]["name"])
    await_restart(controller, backend["name"])


def test_a_used_up_quota_stops_what_is_new(controller: ClusterController, backend: dict[str, Any]) -> None:
    """With a used-up quota starts and builds fail and leave nothing; a lost backend runs again when there is room."""
    namespace, name = controller.namespace, unique("late")
    namespace.kubectl("create", "quota", "full", "--hard=pods=1")
    try:
        wait_until(lambda: namespace.get("quota")[0].get("status", {}).get("used"), "the quota does not count")
        started = controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
        built = controller.api("PUT", "/v1/venvs/late", {"python": PYTHON, "requirements": ["six"]})
        for operation in (started["operation"], built["operation"]):
            error = controller.wait(operation)["error"]
            assert error["code"] == "unavailable"
            assert "exceeded quota" in error["detail"]
        controller.await_objects(backend["name"])
        namespace.kubectl("patch", "quota", "full", "--patch", '{"spec": {"hard": {"pods": "0"}}}')
        wait_until(lambda: namespace.get("quota")[0]["status"]["hard"]["pods"] == "0", "the quota does not change")
        [pod] = controller.list_pods(backend["name"])
        delete(controller, pod["metadata"]["name"])
        path = f"/v1/backends/{backend['name']}"
        wait_until(lambda: "exceeded quota" in (controller.api("GET", path)["error"] or ""), controller.read_log)
    finally:
        namespace.kubectl("delete", "quota", "full")
    await_restart(controller, backend["name"])
    controller.delete_backend(name)
    assert controller.venv("late", python=PYTHON, requirements=["six"])["state"] == "ready"


def test_a_registry_that_goes_away_in_a_push(controller: ClusterController, registry: Gate) -> None:
    """A push that loses the registry fails with the cause and leaves nothing; the next build of the venv succeeds."""
    spec = {"python": PYTHON, "requirements": ["idna"]}
    registry.shut_at(b"PUT /v2/")
    try:
        ended = controller.wait(controller.api("PUT", "/v1/venvs/pushed", spec)["operation"])
    finally:
        registry.open()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unavailable")
    assert "the image could not be pushed: the registry" in ended["error"]["detail"]
    controller.await_objects()
    controller.venv("pushed", **spec)
    started = controller.backend("pushed", name=unique("pushed"))
    controller.check_answers(started["name"])
    controller.delete_backend(started["name"])


def test_an_image_that_is_gone_is_built_again(controller: ClusterController) -> None:
    """A backend starts although the registry has lost its image: the venv is built again, bit for bit."""
    repository = controller.repository
    key = controller.venv("lost", python=PYTHON, requirements=["attrs"])["key"]
    before = repository.find(f"{controller.home_id}-{key}")
    assert before is not None
    repository.remove_tag(f"{controller.home_id}-{key}")
    repository._request("DELETE", f"manifests/{before.digest}", {202})
    assert repository.find(before.digest) is None
    started = controller.backend("lost", name=unique("lost"))
    controller.check_answers(started["name"])
    after = repository.find(f"{controller.home_id}-{key}")
    assert after is not None
    assert after.digest == before.digest
    controller.delete_backend(started["name"])


def test_a_build_whose_pod_is_deleted(controller: ClusterController) -> None:
    """A build that loses its pod says so and leaves nothing, and the next one succeeds."""
    spec = {"python": PYTHON, "requirements": ["numpy"]}
    operation = controller.api("PUT", "/v1/venvs/cut", spec)["operation"]
    controller.await_phase(operation["id"], "install")
    selected = f"--selector=dev.venvd.role=build,dev.venvd.home={controller.home_id}"
    wait_until(lambda: controller.namespace.kubectl("get", "pods", selected, "--output=name"), "there is no pod")
    controller.namespace.kubectl("delete", "pods", selected, "--grace-period=0", "--force")
    error = controller.wait(operation)["error"]
    assert (error["code"], error["detail"]) == ("unavailable", "the pod of the build was deleted")
    controller.await_objects()
    controller.venv("cut", **spec)
