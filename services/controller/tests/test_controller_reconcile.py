"""Backends that end: how the controller starts them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from venvd_contract.errors import Conflict, Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec, Walls
from venvd_engines.engine import PartState

pytestmark = pytest.mark.slow


def _start(testbed: Any, *names: str) -> None:
    _, operation = testbed.controller.venvs.put("plain", VenvSpec(python="3.13"))
    testbed.wait(operation)
    for name in names:
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name))[1])


def test_each_backend_has_a_user_id_until_it_is_removed(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """Worker hosts have different user IDs, keep them over a restart, and give them back when they are removed."""
    _start(testbed, "one", "other")
    ids = [testbed.engine.find_backend(name).launch.user_id for name in ("one", "other")]
    assert ids == [5000, 5001]
    testbed.wait(testbed.controller.backends.restart("other")[1])
    assert testbed.engine.find_backend("other").launch.user_id == 5001
    testbed.controller.backends.request_removal("one")
    wait_until(lambda: len(testbed.controller.backends.list_rows()) == 1)
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "next"))[1])
    assert testbed.engine.find_backend("next").launch.user_id == 5000
    testbed.engine.user_ids = range(7000, 7001)
    testbed.wait(testbed.controller.backends.restart("next")[1])
    assert testbed.engine.find_backend("next").launch.user_id == 7000
    assert "all 1 user IDs" in str(testbed.wait(testbed.controller.backends.restart("other")[1]).error)


def test_a_backend_shows_the_walls_that_its_worker_host_reported(testbed: Any) -> None:
    """The resource has the report of the server, and the OCI runtime of the launch; an old server reports nothing."""
    _start(testbed, "app")
    walls = Walls(7, callFilter=True, networkSockets=False, kernel="6.12")
    assert testbed.controller.backends.get("app").walls == walls
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "apart", ociRuntime="runsc"))[1])
    assert testbed.controller.backends.get("apart").walls == replace(walls, ociRuntime="runsc")
    for answer in ((404, b"{}"), (200, b'{"landlock": "high"}'), (200, b"nonsense")):
        testbed.engine.walls = answer
        testbed.wait(testbed.controller.backends.restart("app")[1])
        assert testbed.controller.backends.get("app").walls is None


def test_a_restart_counts_once(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A restart that needs several starts counts as one."""
    _start(testbed, "app")
    testbed.engine.faults["start"] = Conflict("the port is taken for a moment")
    testbed.engine.find_backend("app").parts["worker"] = PartState("exited", "status 1")
    wait_until(lambda: testbed.controller.backends.get_row("app").failures > 1)
    wait_until(
        lambda: [
            line for line in testbed.controller.audit.list_all(None, 99, None, None) if line.method == "backend.end"
        ]
    )
    assert testbed.controller.backends.get("app").state != "running"
    del testbed.engine.faults["start"]
    assert testbed.await_running("app").restarts == 1


def test_a_restart_leaves_the_ports_of_other_backends_free(testbed: Any) -> None:
    """A launch reserves the ports of the other backends, also of those that are being restarted."""
    _start(testbed, "one", "other")
    ports = {row.name: set(row.ports.values()) for row in testbed.controller.backends.list_rows()}
    launched = testbed.engine.find_backend("other").launch
    assert ports["one"]
    assert set(launched.reserved) == ports["one"]
    assert not ports["one"] & ports["other"]


def test_what_a_failed_start_left_is_removed(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A launch that a failed start could not remove, since the engine was away, goes when the engine is back."""
    _start(testbed)
    away = Unavailable("the engine does not answer")
    testbed.engine.ready = False
    _, operation = testbed.controller.backends.start(BackendSpec("http", "plain", "cut"))
    wait_until(lambda: testbed.engine.launches)
    testbed.engine.faults |= dict.fromkeys(("stop", "destroy", "list_owned"), away)
    testbed.engine.find_backend("cut").parts["worker"] = PartState("exited", "status 1")
    assert testbed.wait(operation).state == "failed"
    assert testbed.engine.launches
    testbed.engine.faults.clear()
    wait_until(lambda: not testbed.engine.launches)
    assert testbed.controller.backends.get("cut").state == "failed"
    wait_until(lambda: testbed.controller.backends.get_row("cut").record is None)
