"""Replicas on each engine: they come and go while others run, and a router serves callers that know of none."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Self

import pytest
from harness.callers import CALLERS
from harness.controller import Controller, caller, unique
from harness.ports import free_port
from harness.waiting import wait_until

import venvd

pytestmark = pytest.mark.network
with_router = pytest.mark.parametrize(
    "controller", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True, scope="package"
)
"""The engine local has no router."""


@contextmanager
def run(controller: Controller, venv: str, kind: str = "http", **spec: Any) -> Iterator[dict[str, Any]]:
    """A backend for one test."""
    backend = controller.backend(venv, kind, name=unique("many"), **spec)
    try:
        yield backend
    finally:
        controller.delete_backend(backend["name"])


def scale(controller: Controller, backend: dict[str, Any], count: int) -> None:
    started = controller.api("POST", f"/v1/backends/{backend['name']}/scale", {"replicas": count})
    ended = controller.wait(started["operation"])
    assert ended["state"] == "succeeded", ended


def read_states(controller: Controller, backend: dict[str, Any]) -> list[str]:
    replicas = controller.api("GET", f"/v1/backends/{backend['name']}")["replicas"]
    return ["draining" if each["draining"] else each["state"] for each in replicas]


def await_states(controller: Controller, backend: dict[str, Any], wanted: list[str]) -> None:
    states: list[str] = []

    def are_reached() -> bool:
        states[:] = read_states(controller, backend)
        return states == wanted

    wait_until(are_reached, lambda: f"the replicas are {states}, not {wanted}\n{controller.read_log()}")


def creates_elsewhere(client: venvd.Backend) -> bool:
    """Create a session for a moment; the server reads of its drain within a second."""
    with client.sessions.create() as session:
        return session.name.startswith("0-")


def list_replicas(controller: Controller, backend: dict[str, Any]) -> Any:
    return controller.api("GET", f"/v1/backends/{backend['name']}/replicas")["items"]


def kill_router(name: str) -> None:
    """Kill the container of the router of a backend."""
    label = f"label=dev.venvd.name={name}--router"
    containers = subprocess.check_output(["docker", "ps", "--quiet", "--filter", label], text=True).split()
    assert len(containers) == 1
    subprocess.check_call(["docker", "kill", *containers], stdout=subprocess.DEVNULL)


def count_containers(name: str) -> int:
    """Count the containers of replica 0 of a backend."""
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=dev.venvd.name={name}"]
    return len(subprocess.check_output(command, text=True).split())


@pytest.mark.about("transport")
@pytest.mark.parametrize("kind", ["http", "pipe", "rpc"])
def test_sessions_outlive_replicas_that_come_and_go(controller: Controller, small: str, kind: str) -> None:
    """Sessions from before are found by name; new ones go to a new replica, which drains until they have ended."""
    with run(controller, small, kind) as backend, venvd.connect(backend["url"], backend["token"]) as client:
        client.sessions.create("kept").exec("x = 1")
        scale(controller, backend, 2)
        other = list_replicas(controller, backend)[1]["url"]
        with venvd.connect(other, backend["token"]) as beside:
            assert beside.session("kept").eval("x") == 1
            created = beside.sessions.create()
            assert created.name.startswith("1-")
            created.exec("y = 2")
            scale(controller, backend, 1)
            assert read_states(controller, backend) == ["running", "draining"]
            assert client.session(created.name).eval("y") == 2
            wait_until(lambda: creates_elsewhere(beside), "the replica still takes new sessions")
            created.delete()
            await_states(controller, backend, [])
        assert client.session("kept").eval("x") == 1


@pytest.mark.about("controller")
def test_replicas_follow_the_number_of_sessions(controller: Controller, small: str) -> None:
    """Two sessions of clients are one too many for one replica."""
    fields = {"maxReplicas": 2, "sessionsPerReplica": 1}
    with run(controller, small, **fields) as backend, venvd.connect(backend["url"], backend["token"]) as client:
        sessions = [client.sessions.create() for _ in range(2)]
        await_states(controller, backend, ["running", "running"])
        assert [session.eval("1") for session in sessions] == [1, 1]


@with_router
@pytest.mark.about("session")
@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_callers_go_through_the_router(controller: Controller, small: str, kind: str) -> None:
    """A caller that knows one address has sessions on all replicas, also on those that are added."""
    with run(controller, small, kind, replicas=2) as backend:
        assert backend["url"] not in {each["url"] for each in backend["replicas"]}
        with closing(CALLERS[kind](backend["url"], backend["token"])) as call:
            sessions = [call("session.create", {})["id"] for _ in range(4)]
            assert sorted(session[:2] for session in sessions) == ["0-", "0-", "1-", "1-"]
            for number, session in enumerate(sessions):
                call("exec", {"code": f"x = {number}"}, session=session)
            assert [call("eval", {"expression": "x"}, session=session)["value"] for session in sessions] == [0, 1, 2, 3]
            listed = {each["id"] for each in call("session.list", {})["sessions"]}
            assert listed >= {"default", "1-default", *sessions}
            scale(controller, backend, 3)
            wait_until(lambda: call("session.create", {})["id"].startswith("2-"), "the router leaves the new one out")


@with_router
def test_a_call_reaches_a_backend_over_a_restart_of_its_router(controller: Controller, small: str) -> None:
    """The address of the backend stays; the replicas and their sessions do not notice."""
    with run(controller, small, replicas=2, port=free_port()) as backend:  # no other test takes the port meanwhile
        with closing(caller(backend)) as call:
            session = call("session.create", {})["id"]
            call("exec", {"code": "x = 7"}, session=session)
        kill_router(backend["name"])

        def answers() -> bool:
            try:
                with closing(caller(backend)) as call:
                    return bool(call("eval", {"expression": "x"}, session=session) == {"value": 7})
            except (OSError, venvd.VenvdError):
                return False

        wait_until(answers, "the router does not come back")


@with_router
def test_a_call_wakes_an_idle_backend(controller: Controller, small: str) -> None:
    """Without calls its replica ends. The next call waits for a new one at the same address."""
    spec = {"venv": small, "type": "http", "name": unique("sleepy"), "idleStop": 1}
    started = controller.api("POST", "/v1/backends", spec)
    assert controller.wait(started["operation"])["state"] == "succeeded"
    state = f"/v1/backends/{spec['name']}"
    backend = controller.api("GET", state)
    with closing(caller(backend)) as call:
        call("exec", {"code": "x = 1"})
    wait_until(lambda: controller.api("GET", state)["state"] == "idle", "the backend does not become idle")
    wait_until(lambda: count_containers(backend["name"]) == 0, "its replica does not end")
    with closing(caller(backend)) as call:
        assert call("eval", {"expression": "'x' in globals()"}) == {"value": False}
    controller.delete_backend(backend["name"])


class Traffic:
    """Calls and sessions of one client after the other, until it is ended.

    Attributes:
        failures: what went wrong.
        versions: of `six`, in the order in which calls saw them first.
    """

    def __init__(self, backend: dict[str, Any]) -> None:
        self._backend = backend
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in (self._evaluate, self._create)]
        self.failures: list[str] = []
        self.versions: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[venvd.Backend], None]) -> None:
        while not self._ending.is_set():
            with venvd.connect(self._backend["url"], self._backend["token"]) as client:
                for _ in range(20):
                    try:
                        work(client)
                    except (OSError, venvd.VenvdError) as error:
                        self.failures.append(repr(error))
                    if self._ending.wait(0.02):
                        return

    def _evaluate(self, client: venvd.Backend) -> None:
        version = client.eval("__import__('six').__version__")
        if version not in self.versions:
            self.versions.append(version)

    def _create(self, client: venvd.Backend) -> None:
        with client.sessions.create() as session:
            session.exec("x = 1")
            assert session.eval("x") == 1


ROLLING = [
    pytest.param("docker", "http", {"maxReplicas": 1}, marks=pytest.mark.docker),
    pytest.param("docker", "rpc", {"maxReplicas": 1}, marks=[pytest.mark.docker, pytest.mark.long]),
    pytest.param("docker", "pipe", {}, marks=[pytest.mark.docker, pytest.mark.long]),
    pytest.param("local", "pipe", {}),
]
"""Backends whose address leads from one launch to another."""


@pytest.mark.parametrize(("controller", "kind", "fields"), ROLLING, indirect=["controller"], scope="package")
def test_no_call_fails_during_an_update(controller: Controller, minor: str, kind: str, fields: dict[str, Any]) -> None:
    """A build that does not start changes nothing. With the next one new calls have it, a running call ends, and a
    session from before stays until its client ends it.
    """
    venv = unique("rolling")
    controller.venv(venv, python=minor, requirements=["six==1.16.0"])
    with run(controller, venv, kind, update="rolling", **fields) as backend, Traffic(backend) as traffic:
        state = f"/v1/backends/{backend['name']}"
        with venvd.connect(backend["url"], backend["token"]) as client:
            kept = client.sessions.create()
            kept.exec("x = 7")
            running = client.sessions.create().background.eval("__import__('time').sleep(3) or 'done'")
            controller.venv(venv, python=minor, requirements=["six==1.17.0"])
            wait_until(lambda: traffic.versions[-1:] == ["1.17.0"], lambda: f"{controller.api('GET', state)}", 300)
            assert kept.eval("x") == 7
            assert kept.eval("__import__('six').__version__") == "1.16.0"
            assert running.result() == "done"
            assert (controller.api("GET", state)["url"], traffic.failures) == (backend["url"], [])
            kept.delete()
    assert traffic.versions == ["1.16.0", "1.17.0"]


@pytest.mark.about("session")
@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_a_backend_with_a_port_alone_keeps_it(controller: Controller, minor: str, kind: str) -> None:
    """The new build starts in its place once another launch has shown that it does; URL and token stay."""
    venv = unique("ported")
    controller.venv(venv, python=minor, requirements=["six==1.16.0"])
    with run(controller, venv, kind) as backend, venvd.connect(backend["url"], backend["token"]) as client:
        assert client.eval("__import__('six').__version__") == "1.16.0"
        controller.venv(venv, python=minor, requirements=["six==1.17.0"])
        started = controller.api("POST", f"/v1/backends/{backend['name']}/restart")
        assert controller.wait(started["operation"])["state"] == "succeeded"
        rolled = controller.api("POST", f"/v1/backends/{backend['name']}/rollback")
        assert controller.wait(rolled["operation"])["state"] == "succeeded"
        after = controller.api("GET", f"/v1/backends/{backend['name']}")
        assert (after["url"], after["token"], after["outdated"]) == (backend["url"], backend["token"], True)
        assert client.wait_ready().eval("__import__('six').__version__") == "1.16.0"
