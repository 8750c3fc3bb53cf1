"""Leftovers: listed, removed on request, and removed automatically when they are outdated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from venvd_contract.errors import Conflict, InUse
from venvd_contract.resources import BackendSpec, Leftover, VenvSpec
from venvd_engines.engine import Image

from .conftest import wait_until  # type: ignore[import-not-found]

OLD, CURRENT = Leftover("server", "old", current=False), Leftover("server", "current", current=True)


def _names(leftovers: list[Leftover]) -> list[str]:
    return [leftover.name for leftover in leftovers]


def test_a_used_image_is_not_a_leftover(testbed: Any) -> None:
    """The image of a venv stays, an unknown image goes, and current leftovers go only with `everything`."""
    testbed.wait(testbed.controller.venvs.put("kept", VenvSpec(python="3.13"))[1])
    kept = testbed.controller.venvs.get("kept").key
    testbed.engine.images["lost"] = Image("lost", "ref", "3.13.5")
    pruner = testbed.controller.pruner
    testbed.engine.others = [CURRENT]
    assert _names(pruner.list_leftovers(everything=False)) == ["lost"]
    assert _names(pruner.list_leftovers(everything=True)) == ["lost", "current"]
    assert _names(pruner.prune(everything=False)) == ["lost"]
    assert (list(testbed.engine.images), testbed.engine.others) == ([kept], [CURRENT])
    assert _names(pruner.prune(everything=True)) == ["current"]
    assert testbed.controller.venvs.get("kept").state == "ready"


@pytest.mark.parametrize("column", ["key", "previous_key", "pinned_key", "wanted_key", "proven_key"])
def test_each_build_that_a_backend_may_start_is_used(testbed: Any, column: str) -> None:
    """The build that a backend runs, the one before, and those that a rollback or an update starts stay."""
    testbed.wait(testbed.controller.venvs.put("kept", VenvSpec(python="3.13"))[1])
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "kept", "web"))[1])
    testbed.controller.reconciler.stop()
    testbed.controller.backends.update("web", **{column: "other"})
    with testbed.controller.pruner._images.lock_used_keys() as used:
        assert "other" in used


def test_nothing_is_removed_during_a_build(testbed: Any) -> None:
    """Pruning fails while a build is under way, whose image is not in the database yet."""
    gate = testbed.engine.gates["build"] = threading.Event()
    _, operation = testbed.controller.venvs.put("slow", VenvSpec(python="3.13", requirements=["six"]))
    with pytest.raises(Conflict, match="under way"):
        testbed.controller.pruner.prune(everything=True)
    gate.set()
    testbed.wait(operation)
    assert testbed.controller.pruner.prune(everything=True) == []


def test_a_leftover_that_cannot_be_removed_is_not_reported_as_removed(testbed: Any) -> None:
    """A leftover that came into use meanwhile stays."""
    testbed.engine.images["lost"] = Image("lost", "ref", "3.13.5")
    testbed.engine.faults["discard"] = InUse("a backend uses it")
    assert testbed.controller.pruner.prune(everything=False) == []


def test_outdated_leftovers_are_removed_automatically(
    create_testbed: Callable[..., Any], engine: Any, wait_until: Callable[..., Any]
) -> None:
    """A controller removes what an earlier version left, and neither current leftovers nor images of venvs."""
    engine.images["lost"] = Image("lost", "ref", "3.13.5")
    engine.others = [OLD, CURRENT]
    with create_testbed().started():
        wait_until(lambda: engine.others == [CURRENT])
    assert "lost" in engine.images


AUTO = "auto-0123456789ab"


def test_venvs_without_a_name_are_leftovers(testbed: Any) -> None:
    """`prune` removes a venv that its client did not name, with its image, once no backend uses it."""
    controller = testbed.controller
    testbed.wait(controller.venvs.put("auto-mobile", VenvSpec(python="3.13"))[1])
    testbed.wait(controller.venvs.put(AUTO, VenvSpec(python="3.13", requirements=["six"]))[1])
    testbed.wait(controller.backends.start(BackendSpec("http", AUTO, "app"))[1])
    assert controller.pruner.list_leftovers(everything=False) == []
    controller.backends.request_removal("app")
    wait_until(lambda: not controller.backends.list_rows())
    unused = [Leftover("unused venv", AUTO, current=False)]
    assert controller.pruner.list_leftovers(everything=False) == unused
    assert controller.pruner.prune(everything=False) == unused
    assert [venv.name for venv in controller.venvs.list_all()] == ["auto-mobile"]
    assert list(testbed.engine.images) == [controller.venvs.get("auto-mobile").key]


def test_venvs_without_a_name_expire(create_testbed: Callable[..., Any]) -> None:
    """They go when no backend has used them for as long as the setting says, and never with the setting 0."""
    with create_testbed(auto_venv_keep=0.01).started() as testbed:
        controller = testbed.controller
        controller.venvs.put("named", VenvSpec(python="3.13"))
        controller.venvs.put(AUTO, VenvSpec(python="3.13", requirements=["six"]))
        testbed.wait(controller.backends.start(BackendSpec("http", AUTO, "app"))[1])
        _await_turns(controller)
        assert {venv.name for venv in controller.venvs.list_all()} == {"named", AUTO}
        controller.backends.request_removal("app")
        wait_until(lambda: [venv.name for venv in controller.venvs.list_all()] == ["named"])
    with create_testbed(auto_venv_keep=0).started() as testbed:
        testbed.wait(testbed.controller.venvs.put(AUTO, VenvSpec(python="3.13"))[1])
        _await_turns(testbed.controller)
        assert testbed.controller.venvs.get(AUTO).state == "ready"


def _await_turns(controller: Any) -> None:
    """Wait for two turns of the reconcile loop, of which the second began after the call."""
    for _ in range(2):
        turn = controller.reconciler.last_turn
        wait_until(lambda turn=turn: controller.reconciler.last_turn != turn)
