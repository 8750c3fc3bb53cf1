"""What a controller does on Kubernetes: starts of backends, builds of venvs, and the watch over many pods."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from harness.cluster_controller import PYTHON, ClusterController, prepared_on_cluster
from harness.controller import Controller, running_controller
from harness.kubernetes import make_namespace, read_values
from lightkube import Client
from lightkube.resources.core_v1 import Pod

from benchmarks import machine
from benchmarks.clients.controllers import ADDED, await_operation, measure_operations, start_at_once
from benchmarks.clients.fake_node import running_fake_node
from benchmarks.figure import Address, Probe, UnmeasurableError

WAITING = {
    "command": ["sleep", "infinity"],
    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
}
POLL_SECONDS = 0.05
LONGEST_SECONDS = 500
SETTLE_SECONDS = 25
"""Longer than a watch lasts, so that each idle minute has as many."""
IDLE_SECONDS = 60


@contextmanager
def bare_pods(_at: Address, count: int) -> Iterator[Probe]:
    """Seconds from the first request until so many pods of two containers that wait are ready."""
    with make_namespace("bench") as namespace:
        client = Client(namespace=namespace.name)
        yield lambda _batch: _start_pods(client, count)


def _start_pods(client: Client, count: int) -> float:
    image = read_values()["images"]["controller"]
    containers = [{**WAITING, "name": name, "image": image} for name in ("one", "other")]
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers}
    names = [f"bare-{secrets.token_hex(4)}" for _ in range(count)]
    began = time.perf_counter()
    for name in names:
        client.create(Pod.from_dict({"metadata": {"name": name}, "spec": spec}))
    _wait(lambda: sum(map(_is_ready, client.list(Pod))) == count, "the pods are not ready")
    took = time.perf_counter() - began
    for name in names:
        client.delete(Pod, name, grace_period=0)
    _wait(lambda: not list(client.list(Pod)), "the pods do not go")
    return took


def _is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())


def _wait(holds: Callable[[], bool], problem: str) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise UnmeasurableError(f"{problem} after {LONGEST_SECONDS} s")
        time.sleep(POLL_SECONDS)


@contextmanager
def start_backends(_at: Address, count: int) -> Iterator[Probe]:
    """Seconds from the first request until all of so many backends are ready."""
    with prepared_on_cluster("bench") as controller:
        controller.start().venv("bare", python=PYTHON)
        yield lambda _batch: start_at_once(controller, count)


@contextmanager
def build(_at: Address, engine: str) -> Iterator[Probe]:
    """Seconds from the request until a new venv of numpy and a small package is ready, built from nothing."""
    if engine == "kubernetes":
        with prepared_on_cluster("bench") as controller:
            yield _make_build(controller.start())
    else:
        with running_controller(engine) as other:
            yield _make_build(other)


def _make_build(controller: Controller) -> Probe:
    controller.venv("bare", python=PYTHON)
    packages = itertools.cycle(ADDED)

    def probe(_batch: int) -> float:
        package = next(packages)
        spec = {"python": PYTHON, "requirements": ["numpy", package]}
        change = controller.api("PUT", f"/v1/venvs/with-{package}", spec)
        return measure_operations([await_operation(controller, change["operation"])])

    return probe


@contextmanager
def memory(_at: Address, count: int) -> Iterator[Probe]:
    """Memory of a controller with so many backends (Pss), in MB; nothing runs in their pods."""
    with _watching(count) as controller:
        assert controller.process is not None
        yield lambda _batch: machine.pss(controller.process.pid)


@contextmanager
def api_calls(_at: Address, count: int) -> Iterator[Probe]:
    """Requests of an idle controller to the API server in a minute; nothing runs in the pods of its backends."""
    with _watching(count) as controller:
        yield partial(_count_calls, controller)


def _count_calls(controller: ClusterController, _batch: int) -> float:
    seen: list[str] = []
    controller.proxy.see = lambda request: seen.append(request.path) if request.moment == "before" else None
    time.sleep(IDLE_SECONDS)
    return len(seen) * 60 / IDLE_SECONDS


@contextmanager
def _watching(count: int) -> Iterator[ClusterController]:
    """Run a controller with so many backends, whose pods are on a fake node."""
    with prepared_on_cluster("bench") as controller:
        controller.start().venv("bare", python=PYTHON)
        with contextlib.ExitStack() as closing:
            if count:
                controller.stop()
                controller.env.update(closing.enter_context(running_fake_node(Client(), controller.namespace)))
                controller.start()
            names = [f"b{number}" for number in range(count)]
            for name in names:
                controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": name})
            _wait(lambda: _count_running(controller) == count, "the backends do not run")
            time.sleep(SETTLE_SECONDS)
            yield controller
            for name in names:
                controller.api("DELETE", f"/v1/backends/{name}")
            _wait(lambda: not controller.list_objects(), "the backends do not go")


def _count_running(controller: ClusterController) -> int:
    states: dict[str, int] = controller.api("GET", "/v1/status")["backends"]
    return states.get("running", 0)
