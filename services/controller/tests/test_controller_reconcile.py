"""Backends that end: how the controller starts them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from venvd_contract.errors import Conflict
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_engines.engine import PartState

pytestmark = pytest.mark.slow


def _start(testbed: Any, *names: str) -> None:
    _, operation = testbed.controller.venvs.put("plain", VenvSpec(python="3.13"))
    testbed.wait(operation)
    for name in names:
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", name))[1])


def test_a_restart_counts_once(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A restart that needs several starts counts as one."""
    _start(testbed, "app")
    testbed.engine.faults["start"] = Conflict("the port is taken for a moment")
    testbed.engine.find_backend("app").parts["worker"] = PartState("exited", "status 1")
    wait_until(lambda: testbed.controller.backends.get_row("app").failures > 1)
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
