"""What happens to pods behind the engine's back: it is told at once, shows the truth, and nothing is left."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import yaml
from harness.gate import Gate
from harness.kubernetes import Namespace, run
from harness.stack import Quiet, Running, Stack, engine_stack
from harness.waiting import wait_until

import venvd
from venvd_contract.errors import Unavailable
from venvd_controller.launch_list import LaunchList
from venvd_engines.engine import Launch, Port
from venvd_engines.kubernetes import labels
from venvd_engines.kubernetes.engine import KubernetesEngine


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """The way to the API server for all of this module."""
    folder = tmp_path_factory.mktemp("gate")
    config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--minify", "--flatten"))
    cluster = config["clusters"][0]["cluster"]
    url = urlsplit(cluster["server"])
    assert url.hostname
    gate = Gate((url.hostname, url.port or 443))
    cluster["server"] = f"https://127.0.0.1:{gate.port}"
    (folder / "config").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(folder / "config"))
        yield gate
    gate.shut()


@pytest.fixture(scope="module")
def stack(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with engine_stack("kubernetes", tmp_path_factory.mktemp("watched")) as made:
        yield made


@pytest.fixture(scope="module")
def namespace(stack: Stack) -> Namespace:
    assert isinstance(stack.engine, KubernetesEngine)
    return Namespace(stack.engine._cluster.namespace)


class Watching:
    """A reader of the engine's events, as the controller has one."""

    def __init__(self, stack: Stack) -> None:
        self.told = threading.Event()
        self.list = LaunchList(stack.engine, self.told.set)
        self.list.start()
        assert self.told.wait(30)


@pytest.fixture(scope="module")
def watching(stack: Stack) -> Iterator[Watching]:
    made = Watching(stack)
    yield made
    made.list.stop()


@pytest.fixture
def running(stack: Stack, namespace: Namespace, watching: Watching) -> Iterator[Running]:
    """A backend; after the test nothing of it is left."""
    made = stack.start("http")
    wait_until(lambda: stack.engine.inspect(made.record).running, "the backend does not run")
    watching.told.clear()
    yield made
    stack.engine.destroy(made.record)
    name = labels.make_name(made.record.launch_id)
    wait_until(lambda: not [left for left in namespace.list_names() if name in left], "a part of it stays")


def list_states(stack: Stack, running: Running) -> tuple[str, str]:
    state = stack.engine.inspect(running.record)
    return state.server.state, state.worker.state


def await_end(stack: Stack, watching: Watching, running: Running) -> tuple[str, str]:
    """Wait until the engine tells of a change after which a part does not run, and return the states of both."""
    while (states := list_states(stack, running)) == ("running", "running"):
        assert watching.told.wait(60), "the engine tells of no change"
        watching.told.clear()
    return states


def test_a_deleted_pod_is_told(stack: Stack, namespace: Namespace, watching: Watching, running: Running) -> None:
    """A pod that somebody deletes without a grace is missing as soon as the engine tells of it."""
    name = labels.make_name(running.record.launch_id)
    namespace.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    assert set(await_end(stack, watching, running)) <= {"missing", "exited"}
    wait_until(lambda: stack.engine.inspect(running.record).server.state == "missing", "the pod does not go")
    [owned] = [each for each in stack.engine.list_owned() if each.launch_id == running.record.launch_id]
    assert (owned.running, owned.complete) == (False, False)


def test_an_evicted_pod_is_told(stack: Stack, namespace: Namespace, watching: Watching, running: Running) -> None:
    """A pod that the eviction API takes away ends, and the engine tells of it."""
    name = labels.make_name(running.record.launch_id)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace.name}}
    file = stack.home / "eviction.json"
    file.write_text(json.dumps(eviction))
    run("kubectl", "create", "--raw", f"/api/v1/namespaces/{namespace.name}/pods/{name}/eviction", "-f", file)
    await_end(stack, watching, running)
    wait_until(lambda: "running" not in list_states(stack, running), "a part does not end")


def test_one_ended_container_is_told(stack: Stack, namespace: Namespace, watching: Watching, running: Running) -> None:
    """The end of the server alone is told, although the phase of the pod says Running for a while."""
    name = labels.make_name(running.record.launch_id)
    code = "import os; os.kill(1, 15)"
    namespace.kubectl("exec", name, "--container", "server", "--", "python", "-c", code, check=False)
    assert "exited" in await_end(stack, watching, running)
    wait_until(
        lambda: list_states(stack, running)[0] == "exited", "the server still runs"
    )  # its worker host may end first


def is_away(stack: Stack, running: Running) -> bool:
    """Whether `inspect` says that the cluster does not answer."""
    try:
        stack.engine.inspect(running.record)
    except Unavailable as error:
        return "does not answer" in error.message
    return False


def test_an_api_server_that_goes_and_comes_back(stack: Stack, gate: Gate, watching: Watching, running: Running) -> None:
    """Without the API server states are an error and backends serve on; afterwards all is there."""
    with venvd.connect(running.url, token=running.token) as backend:
        backend.exec("kept = 1")
        gate.shut()
        try:
            wait_until(lambda: is_away(stack, running), "the absence is not told")
            with pytest.raises(Unavailable, match="does not answer"):
                stack.engine.list_owned()
            assert backend.eval("kept") == 1
            watching.told.clear()
        finally:
            gate.open()
        assert watching.told.wait(60)
        assert stack.engine.inspect(running.record).running
        assert backend.eval("kept") == 1


def test_a_start_that_loses_the_api_server_leaves_what_is_listed(
    stack: Stack, gate: Gate, namespace: Namespace, running: Running
) -> None:
    """A start that the absence cut off fails with the cause; what it left is listed afterwards, and removed."""
    before = namespace.list_names()

    class Shutting(Quiet):
        def check(self) -> None:
            gate.shut()

    digest = hashlib.sha256(b"word").hexdigest()
    launch = Launch(
        id=secrets.token_hex(6),
        name="cut",
        type="http",
        image=stack.image,
        server_env={"VENVD_NAME": "cut", "VENVD_TOKEN_SHA256": digest},
        ports=(Port("main", 5678, 5678),),
        user_id=stack.engine.claim_user_ids()[9],
    )
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            stack.engine.start(launch, Shutting())
    finally:
        gate.open()
    [owned] = [each for each in stack.engine.list_owned() if each.launch_id == launch.id]
    assert owned.name == "cut"
    stack.engine.destroy_owned(owned)
    wait_until(lambda: namespace.list_names() == before, lambda: namespace.list_names() ^ before)
    assert stack.engine.inspect(running.record).running
