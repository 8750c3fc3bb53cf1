"""The controller's metrics: what they count, and that they exist from the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller import metrics
from venvd_controller.controller import Controller
from venvd_engines.engine import Owned

pytestmark = pytest.mark.slow


class Silent:
    """Progress without a listener."""

    def phase(self, name: str) -> None:
        del name

    def log(self, line: str) -> None:
        del line

    def check(self) -> None:
        return


def parse_metrics(text: str) -> dict[str, float]:
    """Parse the value of each series."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


def read_metrics(client: TestClient) -> dict[str, float]:
    return parse_metrics(client.get("/metrics").text)


def test_known_series_exist_from_the_start(client: TestClient) -> None:
    """Counters and states are 0 before anything happened."""
    values = read_metrics(client)
    for series in (
        'venvd_build_duration_seconds_count{outcome="failed"}',
        'venvd_operation_duration_seconds_count{kind="backend.start",state="failed"}',
        'venvd_operations{kind="venv.build",state="queued"}',
        'venvd_backends{state="failed",type="rpc"}',
        'venvd_venvs{state="ready"}',
        "venvd_reconcile_errors_total",
    ):
        assert values[series] == 0
    assert any(series.startswith("venvd_controller_build_info{") for series in values)
    assert values["process_resident_memory_bytes"] > 0


def test_resources_are_counted_by_state(controller: Controller, client: TestClient) -> None:
    """A pending backend and its operation are counted by type, kind and state."""
    controller.operations.stop()
    controller.reconciler.stop()
    controller.venvs.put("idle", VenvSpec())
    controller.backends.start(BackendSpec(type="pipe", venv="idle", name="box"))
    values = read_metrics(client)
    assert values['venvd_backends{state="pending",type="pipe"}'] == 1
    assert values['venvd_operations{kind="backend.start",state="queued"}'] == 1
    assert values['venvd_operations{kind="venv.build",state="queued"}'] == 1
    assert values['venvd_venvs{state="pending"}'] == 1
    assert values['venvd_backend_restarts_total{backend="box"}'] == 0


def test_a_build_in_a_start_is_counted(testbed: Any) -> None:
    """A failed build counts once, also if the start of a backend needed it."""
    controller = testbed.controller
    controller.operations.stop()
    controller.venvs.put("broken", VenvSpec(python="3.99"))
    with pytest.raises(VenvdError):
        controller.venvs.ensure("broken", Silent())
    values = parse_metrics(metrics.render(controller.registry).decode())
    assert values['venvd_build_duration_seconds_count{outcome="failed"}'] == 1
    assert values['venvd_build_duration_seconds_count{outcome="succeeded"}'] == 0


def test_an_operation_is_timed_by_its_outcome(testbed: Any) -> None:
    """An operation is observed in the histogram of its kind and outcome."""
    assert testbed.wait(testbed.controller.runtimes.put("3.99")[1]).state == "failed"
    values = parse_metrics(metrics.render(testbed.controller.registry).decode())
    assert values['venvd_operation_duration_seconds_count{kind="runtime.init",state="failed"}'] == 1


def test_the_lag_grows_while_the_engine_is_away(
    controller: Controller, client: TestClient, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    """`venvd_engine_up`, the errors and the lag show an engine that does not answer."""

    def away() -> list[Owned]:
        raise Unavailable("the engine went away")

    assert read_metrics(client)["venvd_engine_up"] == 1
    monkeypatch.setattr(controller.engine, "list_owned", away)
    wait_until(lambda: not read_metrics(client)["venvd_engine_up"])
    first = read_metrics(client)
    assert first["venvd_engine_up"] == 0
    assert first["venvd_reconcile_errors_total"] > 0
    lag = "venvd_reconcile_lag_seconds"
    wait_until(lambda: read_metrics(client)[lag] > first[lag])


def test_the_lag_counts_from_the_start_before_the_first_turn(
    controller: Controller, wait_until: Callable[..., Any]
) -> None:
    """Before the first complete turn the lag is the time since the start."""

    def lag() -> float:
        lines = metrics.render(controller.registry).decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("venvd_reconcile_lag_seconds "))

    first = lag()
    wait_until(lambda: lag() > first)
