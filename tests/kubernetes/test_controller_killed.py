"""A controller that is killed between two changes of the cluster: nothing is lost, leaked or made twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from harness.api_proxy import CutError, Request
from harness.cluster_controller import PYTHON, ClusterController, prepared_on_cluster
from harness.controller import DONE
from harness.stack import probe
from harness.waiting import wait_until

KILLS = 50
MOST_CHANGES = 7
"""A start makes three objects; an end changes one and deletes three; a step of a build makes two and deletes them."""
NAMES = ("a", "b", "c")
PACKAGES = ("six", "idna", "attrs", "click", "pluggy", "packaging", "certifi", "iniconfig")


class Killer:
    """Kills a controller at one of its next changes of the cluster, before or after the API server has it.

    Attributes:
        kills: so far.
        twice: backends that got a pod while they had one.
    """

    def __init__(self, controller: ClusterController, chance: random.Random) -> None:
        self._controller = controller
        self._chance = chance
        self._left = 0
        self._moment = ""
        self.kills = 0
        self.twice: list[str] = []
        controller.proxy.see = self._see

    def arm(self) -> None:
        self._moment = self._chance.choice(("before", "after"))
        self._left = self._chance.randint(1, MOST_CHANGES)

    def kill(self) -> None:
        self._left = 0
        self.kills += 1
        self._controller.kill()

    def _see(self, request: Request) -> None:
        if not request.changes:
            return
        if self._left and request.moment == self._moment:
            self._left -= 1
            if not self._left:
                self.kill()
        if self._controller.is_dead:
            raise CutError
        if request.moment == "before":
            self._note_second(request)

    def _note_second(self, request: Request) -> None:
        if request.method == "POST" and request.content.get("kind") == "Pod":
            name = request.content["metadata"]["labels"].get("dev.venvd.name")
            if name is not None and self._controller.list_pods(name):
                self.twice.append(name)


class Client:
    """Starts and removes backends and builds venvs at random, and knows what the controller has accepted."""

    def __init__(self, controller: ClusterController, chance: random.Random) -> None:
        self._controller = controller
        self._chance = chance
        self.backends: set[str] = set()
        self.venvs: set[str] = set()
        self._unsure: str | None = None

    def act(self) -> None:
        """Ask for one change; a controller that is killed meanwhile may have accepted it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.settle()
            if self._chance.random() < 0.1:
                self._build()
            else:
                self._change_backend(self._chance.choice(NAMES))

    def settle(self) -> None:
        """Find out whether the change that got no answer was accepted."""
        if self._unsure is not None:
            status, backend = self._send("GET", f"/v1/backends/{self._unsure}")
            self._note(self._unsure, runs=status == http.client.OK and backend["state"] != "stopping")

    def _note(self, name: str, *, runs: bool) -> None:
        self._unsure = None
        (self.backends.add if runs else self.backends.discard)(name)

    def _change_backend(self, name: str) -> None:
        self._unsure = name
        if name in self.backends:
            self._send("DELETE", f"/v1/backends/{name}")
            self._note(name, runs=False)
        else:
            body = {"venv": "bare", "type": "http", "name": name}
            status, _ = self._send("POST", "/v1/backends", body)
            self._note(name, runs=status == http.client.ACCEPTED)  # else the one before is still being removed

    def _build(self) -> None:
        packages = sorted(self._chance.sample(PACKAGES, 2))
        name = "-".join(packages)
        status, _ = self._send("PUT", f"/v1/venvs/{name}", {"python": PYTHON, "requirements": packages})
        assert status < http.client.BAD_REQUEST
        self.venvs.add(name)

    def _send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self._controller.raw(method, path, None if body is None else json.dumps(body).encode(), timeout=30)


def is_idle(controller: ClusterController) -> bool:
    """Whether the controller has neither operations nor removals under way."""
    operations = controller.api("GET", "/v1/operations")["items"]
    backends = controller.api("GET", "/v1/backends")["items"]
    return all(each["state"] in DONE for each in operations) and all(each["state"] == "running" for each in backends)


def start(controller: ClusterController) -> bool:
    """Start the controller; it may be killed before it is ready."""

    def is_up() -> bool:
        with contextlib.suppress(OSError):
            return controller.is_dead or probe(controller.url, "/readyz") == http.client.OK
        return False

    controller.launch()
    wait_until(is_up, lambda: f"it is not ready: {controller.read_log()}")
    return not controller.is_dead


@pytest.fixture
def controller() -> Iterator[ClusterController]:
    with prepared_on_cluster("killed", VENVD_STOP_GRACE="1") as prepared:
        yield prepared


def test_a_controller_killed_at_random(controller: ClusterController, capsys: pytest.CaptureFixture[str]) -> None:
    """After fifty kills, each wanted backend runs once, each build has ended well, and nothing else is left."""
    seed = int(os.environ.get("VENVD_TEST_SEED") or secrets.randbelow(1 << 32))
    with capsys.disabled():
        sys.stdout.write(f"\nVENVD_TEST_SEED={seed}\n")
    chance = random.Random(seed)  # noqa: S311 - it chooses what to do
    controller.start().venv("bare", python=PYTHON)
    killer, client = Killer(controller, chance), Client(controller, chance)
    while killer.kills < KILLS:
        killer.arm()
        if not controller.is_dead or start(controller):
            client.act()

            def has_ended() -> bool:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return controller.is_dead or is_idle(controller)
                return False

            wait_until(has_ended, lambda: f"it comes to no end: {controller.read_log()}")
    controller.start()
    client.settle()
    wait_until(lambda: is_idle(controller), lambda: f"work does not end: {controller.read_log()}")
    for name in client.backends:
        controller.check_answers(name)
    controller.await_objects(*client.backends)
    assert {name: controller.api("GET", f"/v1/venvs/{name}")["state"] for name in client.venvs} == dict.fromkeys(
        client.venvs, "ready"
    )
    assert killer.twice == []
    for name in client.backends:
        controller.delete_backend(name)
    controller.await_objects()
