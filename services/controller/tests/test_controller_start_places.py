"""How many backends start at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from venvd_contract.resources import BackendSpec, OperationInfo, VenvSpec
from venvd_controller import backend_start


@pytest.fixture
def one_at_a_time(testbed: Any, engine: Any) -> Any:
    """The engine of a controller with a venv; its machine has one processor."""
    engine.count_processors = lambda: 1
    testbed.controller.venvs.put("app", VenvSpec(python="3.13"))
    return engine


def begin(testbed: Any, name: str) -> OperationInfo:
    operation: OperationInfo = testbed.controller.backends.start(BackendSpec("http", venv="app", name=name))[1]
    return operation


def is_waiting(testbed: Any, operation: OperationInfo) -> bool:
    phases = testbed.controller.operations.get(operation.id).phases
    return bool(phases) and phases[-1].name == "waiting"


def test_a_start_waits_for_its_place(testbed: Any, one_at_a_time: Any, wait_until: Callable[..., Any]) -> None:
    """With one processor the second launch is made after the first backend is ready."""
    gate = one_at_a_time.gates["start"] = threading.Event()
    first = begin(testbed, "first")
    wait_until(lambda: "start" in one_at_a_time.steps)
    second = begin(testbed, "second")
    wait_until(lambda: is_waiting(testbed, second))
    assert one_at_a_time.steps.count("start") == 1
    gate.set()
    ends = [testbed.controller.operations.wait(each.id, 60).endedAt for each in (first, second)]
    assert ends[0] < ends[1]


def test_a_waiting_start_is_cancelled(testbed: Any, one_at_a_time: Any, wait_until: Callable[..., Any]) -> None:
    """A start that waits for its place ends at once, and makes no launch."""
    gate = one_at_a_time.gates["start"] = threading.Event()
    begin(testbed, "first")
    wait_until(lambda: "start" in one_at_a_time.steps)
    second = begin(testbed, "second")
    wait_until(lambda: is_waiting(testbed, second))
    testbed.controller.operations.cancel(second.id)
    assert testbed.controller.operations.wait(second.id, 60).state == "cancelled"
    assert one_at_a_time.steps.count("start") == 1
    gate.set()


def test_a_long_start_leaves_its_place(
    testbed: Any, one_at_a_time: Any, wait_until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is not ready for long does not keep the next one from starting."""
    monkeypatch.setattr(backend_start, "_PLACE_SECONDS", 0.0)
    one_at_a_time.ready = False
    first = begin(testbed, "first")
    wait_until(lambda: one_at_a_time.launches)
    one_at_a_time.ready = True
    assert testbed.controller.operations.wait(begin(testbed, "second").id, 60).state == "succeeded"
    assert testbed.controller.operations.get(first.id).state == "running"
