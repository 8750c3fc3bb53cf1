"""Backends that end, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from venvd_contract.errors import Conflict
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_engines.engine import PartState


def _running(desk: Any, *names: str) -> None:
    _, operation = desk.program.venvs.put("plain", VenvSpec(python="3.13"))
    desk.done(operation)
    for name in names:
        desk.done(desk.program.backends.start(BackendSpec("http", "plain", name))[1])


def test_a_restart_counts_once(desk: Any, until: Callable[..., Any]) -> None:
    """However many tries it takes to start again what has ended, it is one restart."""
    _running(desk, "app")
    desk.engine.faults["start"] = Conflict("the port is taken for a moment")
    desk.engine.part_of("app").parts["worker"] = PartState("exited", "status 1")
    until(lambda: desk.program.backends.row("app").failures > 1)
    assert desk.program.backends.get("app").state != "running"
    del desk.engine.faults["start"]
    assert desk.running("app").restarts == 1


def test_what_starts_again_comes_back_to_its_port(desk: Any) -> None:
    """Ports of other backends are no choice, also while those are being started again."""
    _running(desk, "one", "other")
    rows = {row.name: set(row.ports.values()) for row in desk.program.backends.rows()}
    launched = desk.engine.part_of("other").launch
    assert rows["one"]
    assert set(launched.reserved) == rows["one"]
    assert not rows["one"] & rows["other"]
