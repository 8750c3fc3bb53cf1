"""The chart with two controllers on a PostgreSQL of this host, of which one leads."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.kubernetes import find_host_address
from harness.postgresql import Cluster, find_program, running_cluster
from harness.release import Release, prepare_release
from harness.waiting import wait_until

LEADER = "dev.venvd.leader"
CONTROLLERS = ("pods", "--selector=app.kubernetes.io/component=controller")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Cluster]:
    """A server at the address of this host that leads to the nodes."""
    if find_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    with running_cluster(find_host_address()) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, postgresql: Cluster) -> Iterator[Release]:
    with prepare_release("controllers", tmp_path_factory.mktemp("chart")) as prepared:
        url = postgresql.create_database()
        prepared.namespace.kubectl("create", "secret", "generic", "database", f"--from-literal=url={url}")
        prepared.options += ["--set", "controller.replicas=2", "--set", "database.existingSecret=database"]
        yield prepared


def list_controllers(release: Release) -> list[dict[str, Any]]:
    answer = json.loads(release.namespace.kubectl("get", *CONTROLLERS, "--output", "json"))
    return [pod for pod in answer["items"] if "deletionTimestamp" not in pod["metadata"]]


def find_leader(release: Release) -> str | None:
    """Find the pod that the Service leads to: the leader, once it serves."""
    [slice_] = [
        each
        for each in release.namespace.get("endpointslices")
        if each["metadata"]["labels"]["kubernetes.io/service-name"] == "venvd"
    ]
    ready = [each["targetRef"]["name"] for each in slice_["endpoints"] or [] if each["conditions"]["ready"]]
    assert len(ready) < 2, "the Service leads to two controllers"
    return ready[0] if ready else None


def list_backends(release: Release) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in release.namespace.get("pods")
        if pod["metadata"]["labels"].get("dev.venvd.role") == "backend"
    }


def read_events(release: Release, operation: str) -> str:
    headers = {"Authorization": f"Bearer {release.read_token()}"}
    with release.forward("venvd", 8600) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        connection.request("GET", f"/v1/operations/{operation}/events", headers=headers)
        text = connection.getresponse().read().decode()
        connection.close()
    return text


def test_another_controller_takes_over(release: Release) -> None:
    """When the leader's pod is killed in a build, the other ends the build; backends run on, and none starts twice."""
    before = release.namespace.list_names()
    release.change("install")
    assert "Succeeded" in release.helm("test", "venvd")
    release.venvd("init", "3.13")
    release.venvd("venv", "create", "science", "--python", "3.13", "--requirement", "six")
    token = json.loads(release.venvd("start", "http", "--venv", "science", "--json"))["token"]
    backends = list_backends(release)
    assert len(backends) == 1
    leader = find_leader(release)
    assert len(list_controllers(release)) == 2

    words = ("venv", "create", "later", "--python", "3.13", "--requirement", "numpy", "--no-wait", "--json")
    assert json.loads(release.venvd(*words))
    release.namespace.kubectl("delete", "pod", str(leader), "--grace-period=0", "--force")

    def has_another() -> bool:
        return find_leader(release) not in {None, leader}

    wait_until(has_another, "no other controller leads", 60)
    assert release.evaluate("science-http", token, "6 * 7") == 42
    assert "science-http" in release.venvd("list")

    def is_built() -> bool:
        return bool(json.loads(release.venvd("venv", "status", "later", "--json"))["state"] == "ready")

    wait_until(is_built, "the build was not taken up again")
    [operation] = [
        each for each in json.loads(release.venvd("operation", "list", "--json")) if each["target"] == "later"
    ]
    assert "this operation begins anew" in read_events(release, operation["id"])
    assert list_backends(release) == backends
    wait_until(lambda: len(list_controllers(release)) == 2, "the Deployment starts no new pod")

    # an upgrade replaces both, one after the other
    names = {pod["metadata"]["name"] for pod in list_controllers(release)}
    release.change("upgrade", "--set", "controller.podLabels.turn=second")
    wait_until(lambda: len(list_controllers(release)) == 2, "there are not two controllers")
    assert not names & {pod["metadata"]["name"] for pod in list_controllers(release)}
    wait_until(lambda: find_leader(release), "no controller leads after the upgrade")
    labelled = [each["metadata"]["name"] for each in list_controllers(release) if LEADER in each["metadata"]["labels"]]
    assert labelled == [find_leader(release)]
    assert "science-http" in release.venvd("list")
    assert list_backends(release) == backends

    release.helm("uninstall", "venvd", "--wait")
    wait_until(lambda: release.namespace.list_names() == before, lambda: release.namespace.list_names() ^ before)
