"""What a venv preloads, on its way from the specification to the launch."""

from __future__ import annotations

from typing import Any

from venvd_contract.resources import BackendSpec, VenvSpec


def test_other_modules_to_preload_cost_a_start_and_no_build(desk: Any) -> None:
    """They are part of the launch, and not of what the image is made from."""
    desk.done(desk.program.venvs.put("plain", VenvSpec(python="3.13", preload=["json", "json", "decimal"]))[1])
    desk.done(desk.program.backends.start(BackendSpec("http", "plain", "app"))[1])
    assert list(desk.engine.part_of("app").launch.preload) == ["json", "decimal"]
    before = desk.program.venvs.get("plain")
    venv, operation = desk.program.venvs.put("plain", VenvSpec(python="3.13", preload=["fractions"]))
    assert operation is None
    assert (venv.state, venv.key) == ("ready", before.key)
    desk.done(desk.program.backends.restart("app")[1])
    launch = desk.engine.part_of("app").launch
    assert launch.warden_options() == ["--preload", "fractions", "--preload-timeout", "30", "--spares", "2"]


def test_how_sessions_are_forked_is_a_setting(desks: Any) -> None:
    """The time for imports, and how many sessions are forked ahead."""
    with desks(preload_timeout=2.5, spare_sessions=0).started() as desk:
        desk.done(desk.program.venvs.put("plain", VenvSpec(python="3.13"))[1])
        desk.done(desk.program.backends.start(BackendSpec("http", "plain", "app"))[1])
        launch = desk.engine.part_of("app").launch
        assert launch.warden_options() == ["--preload-timeout", "2.5", "--spares", "0"]
