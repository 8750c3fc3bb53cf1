"""The controller's numbers: what they count, and that they are there before anything happened."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller import metrics
from venvd_controller.program import Program
from venvd_engines.engine import Owned


class Silent:
    """Progress that nobody follows."""

    def phase(self, name: str) -> None:
        del name

    def log(self, line: str) -> None:
        del line

    def check(self) -> None:
        return


def numbers(client: TestClient) -> dict[str, float]:
    """Each series with its labels, and its value."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_can_be_known_is_there_from_the_start(client: TestClient) -> None:
    """Counters and states that nothing has happened to yet stand at 0."""
    found = numbers(client)
    for series in (
        'venvd_build_duration_seconds_count{outcome="failed"}',
        'venvd_operation_duration_seconds_count{kind="backend.start",state="failed"}',
        'venvd_operations{kind="venv.build",state="queued"}',
        'venvd_backends{state="failed",type="rpc"}',
        'venvd_venvs{state="ready"}',
        "venvd_reconcile_errors_total",
    ):
        assert found[series] == 0
    assert any(series.startswith("venvd_controller_build_info{") for series in found)
    assert found["process_resident_memory_bytes"] > 0


def test_kept_things_are_told_by_state(program: Program, client: TestClient) -> None:
    """A backend that waits to start and its operation are counted by type, kind and state."""
    program.operations.stop()
    program.reconciler.stop()
    program.venvs.put("idle", VenvSpec())
    program.backends.start(BackendSpec(type="pipe", venv="idle", name="box"))
    found = numbers(client)
    assert found['venvd_backends{state="pending",type="pipe"}'] == 1
    assert found['venvd_operations{kind="backend.start",state="queued"}'] == 1
    assert found['venvd_operations{kind="venv.build",state="queued"}'] == 1
    assert found['venvd_venvs{state="pending"}'] == 1
    assert found['venvd_backend_restarts_total{backend="box"}'] == 0


def test_a_build_is_counted_whoever_began_it(program: Program, client: TestClient) -> None:
    """A venv that cannot be built counts once as a build, also where the start of a backend needed it."""
    program.operations.stop()
    program.venvs.put("broken", VenvSpec(python="3.99"))
    with pytest.raises(VenvdError):
        program.venvs.ensure("broken", Silent())
    found = numbers(client)
    assert found['venvd_build_duration_seconds_count{outcome="failed"}'] == 1
    assert found['venvd_build_duration_seconds_count{outcome="succeeded"}'] == 0


def test_an_operation_is_timed_by_its_outcome(program: Program, client: TestClient) -> None:
    """What an operation came to is in the histogram of its kind."""
    done = program.operations.wait(program.runtimes.put("3.99")[1].id, 60)  # type: ignore[union-attr]
    assert done.state == "failed"
    assert numbers(client)['venvd_operation_duration_seconds_count{kind="runtime.init",state="failed"}'] == 1


def test_the_lag_grows_while_the_engine_is_away(
    program: Program, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that stops answering shows in `venvd_engine_up`, the errors and the lag."""

    def away() -> list[Owned]:
        raise Unavailable("the engine went away")

    assert numbers(client)["venvd_engine_up"] == 1
    monkeypatch.setattr(program.engine, "list_owned", away)
    end = time.monotonic() + 20
    while numbers(client)["venvd_engine_up"] and time.monotonic() < end:
        time.sleep(0.05)
    first = numbers(client)
    assert first["venvd_engine_up"] == 0
    assert first["venvd_reconcile_errors_total"] > 0
    time.sleep(0.3)
    assert numbers(client)["venvd_reconcile_lag_seconds"] > first["venvd_reconcile_lag_seconds"]


def test_the_lag_counts_from_the_start_where_no_turn_was_whole(
    program: Program,
) -> None:
    """A controller whose engine never answered is behind since it was started, not up to date."""

    def lag() -> float:
        lines = metrics.text(program.registry).decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("venvd_reconcile_lag_seconds "))

    first = lag()
    time.sleep(0.05)
    assert lag() > first
