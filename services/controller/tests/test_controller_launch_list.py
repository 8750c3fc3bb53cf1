"""The list of launches that the reconcile loop uses while the engine reports no change."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from venvd_contract.errors import Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_engines.engine import PartState

pytestmark = pytest.mark.slow


@pytest.fixture
def testbed(create_testbed: Callable[..., Any], engine: Any) -> Iterator[Any]:
    """A controller whose engine reports ends, with a backend that runs."""
    engine.ends = queue.SimpleQueue()
    engine.ends.put(())
    with create_testbed().started() as testbed:
        _, operation = testbed.controller.venvs.put("plain", VenvSpec(python="3.13"))
        testbed.wait(operation)
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "app"))[1])
        yield testbed
        engine.ends.put(None)


def list_steps(testbed: Any, wait_until: Callable[..., Any], turns: int = 5) -> list[str]:
    """List what the engine is asked for during some turns of the reconcile loop."""
    done = []
    testbed.controller.reconciler.chores.append(lambda: done.append(None))
    wait_until(lambda: done)
    first, asked = len(done), len(testbed.engine.steps)
    wait_until(lambda: len(done) >= first + turns)
    return list(testbed.engine.steps[asked:])


def count_lists(testbed: Any, wait_until: Callable[..., Any]) -> int:
    return list_steps(testbed, wait_until).count("list_owned")


def test_an_idle_controller_asks_the_engine_for_nothing(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """While all backends run and no event came, turns use the last list, and write nothing."""
    wait_until(lambda: not list_steps(testbed, wait_until))


def test_an_event_is_acted_on(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A part that ended is seen at the next event, and the backend is replaced."""
    wait_until(lambda: not count_lists(testbed, wait_until))
    testbed.engine.find_backend("app").parts["worker"] = PartState("exited", "status 1")
    testbed.engine.ends.put(())
    wait_until(lambda: testbed.controller.backends.get_row("app").restarts == 1)


def test_a_stray_is_destroyed_and_a_new_launch_is_seen(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """Launches that the list lacks, or that the database lacks, make the controller ask again."""
    wait_until(lambda: not count_lists(testbed, wait_until))
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "other"))[1])
    wait_until(lambda: not count_lists(testbed, wait_until))
    assert testbed.controller.backends.get_row("other").restarts == 0
    testbed.controller.backends.delete_row("other")
    wait_until(lambda: len(testbed.engine.launches) == 1)


def test_each_turn_asks_while_the_engine_does_not_listen(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """Where the events end and cannot be had again, each turn reads the list."""
    testbed.engine.faults["watch"] = Unavailable("the engine went away")
    testbed.engine.ends.put(None)
    wait_until(lambda: count_lists(testbed, wait_until) >= 5)
    del testbed.engine.faults["watch"]
    testbed.engine.ends.put(())
    wait_until(lambda: not count_lists(testbed, wait_until))
