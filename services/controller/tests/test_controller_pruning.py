"""What nothing uses: listed, removed on request, and removed by itself where it is out of date."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from venvd_contract.errors import Conflict, InUse
from venvd_contract.resources import Leftover, VenvSpec
from venvd_engines.engine import Image

OLD, CURRENT = Leftover("server", "old", current=False), Leftover("server", "current", current=True)


def _names(found: list[Leftover]) -> list[str]:
    return [one.name for one in found]


def test_what_is_used_is_no_leftover(desk: Any) -> None:
    """The image of a venv stays, one that nobody knows goes; what is current only where everything is asked for."""
    change = desk.program.venvs.put("kept", VenvSpec(python="3.13"))
    desk.done(change[1])
    kept = desk.program.venvs.get("kept").key
    desk.engine.images["lost"] = Image("lost", "ref", "3.13.5")
    pruner = desk.program.pruner
    desk.engine.others = [CURRENT]
    assert _names(pruner.leftovers(everything=False)) == ["lost"]
    assert _names(pruner.leftovers(everything=True)) == ["lost", "current"]
    assert _names(pruner.prune(everything=False)) == ["lost"]
    assert (list(desk.engine.images), desk.engine.others) == ([kept], [CURRENT])
    assert _names(pruner.prune(everything=True)) == ["current"]
    assert desk.program.venvs.get("kept").state == "ready"


def test_nothing_is_removed_under_a_build(desk: Any) -> None:
    """What a build finds or makes is not in the database yet: pruning waits for its end, and says so."""
    gate = desk.engine.gates["build"] = threading.Event()
    _, operation = desk.program.venvs.put("slow", VenvSpec(python="3.13", requirements=["six"]))
    with pytest.raises(Conflict, match="under way"):
        desk.program.pruner.prune(everything=True)
    gate.set()
    desk.done(operation)
    assert desk.program.pruner.prune(everything=True) == []


def test_what_resists_stays(desk: Any) -> None:
    """What came to be used meanwhile is not told as removed."""
    desk.engine.images["lost"] = Image("lost", "ref", "3.13.5")
    desk.engine.faults["discard"] = InUse("somebody uses it")
    assert desk.program.pruner.prune(everything=False) == []


def test_old_versions_go_by_themselves(desks: Callable[..., Any], engine: Any, until: Callable[..., Any]) -> None:
    """A controller removes what an earlier version left, and neither what is current nor images of venvs."""
    engine.images["lost"] = Image("lost", "ref", "3.13.5")
    engine.others = [OLD, CURRENT]
    with desks().started():
        until(lambda: engine.others == [CURRENT])
    assert "lost" in engine.images
