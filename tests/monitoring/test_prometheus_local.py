"""A real Prometheus, a real controller, and backends of each type that start after both."""

from __future__ import annotations

import http.client
import re
from typing import Any

import pytest
from harness.callers import CALLERS
from harness.prometheus import promtool
from harness.promql import Selector, all_expressions, panel_expressions, selectors
from harness.stack import ROOT
from harness.waiting import TIMEOUT

from venvd_contract import errors
from venvd_contract.errors import UserError, VenvdError

TYPES = ("http", "pipe", "rpc")
CALLS = {"ok": 3, "user_error": 2}


@pytest.fixture(scope="module")
def backends(local: Any) -> dict[str, dict[str, Any]]:
    """One backend of each type; a client of its transport sends each the same calls."""
    started = {kind: local.controller.backend(local.venv, kind, name=f"late-{kind}") for kind in TYPES}
    for kind, backend in started.items():
        client = CALLERS[kind](backend["url"], backend["token"])
        for _ in range(CALLS["ok"]):
            assert client("eval", {"expression": "1+1"}) == {"value": 2}
        for _ in range(CALLS["user_error"]):
            with pytest.raises(UserError):
                client("eval", {"expression": "1/0"})
        client.close()
    local.prometheus.until('count(up{job="venvd-backends"} == 1) == 3')
    return started


@pytest.mark.parametrize("kind", TYPES)
def test_a_backend_that_is_started_later_is_scraped(local: Any, backends: dict[str, dict[str, Any]], kind: str) -> None:
    """Prometheus counts the calls of a new backend, labelled with backend, venv, type and engine."""
    labels = f'backend="late-{kind}",venv="{local.venv}",type="{kind}",engine="local",instance="late-{kind}"'
    assert local.prometheus.value(f"up{{{labels}}} == 1") == 1
    for outcome, count in CALLS.items():
        series = f'venvd_requests_total{{{labels},command="eval",outcome="{outcome}"}}'
        assert local.prometheus.value(f"{series} == {count}") == count
    total = sum(CALLS.values())
    assert local.prometheus.value(f'venvd_request_duration_seconds_count{{{labels},command="eval"}}') == total
    assert local.prometheus.value(f"venvd_ready{{{labels}}}") == 1
    assert local.prometheus.value(f"sum(venvd_sessions{{{labels}}}) == 1") == 1
    assert local.prometheus.value(f'venvd_worker_memory_bytes{{{labels},part="sessions"}} > 0') > 1e6


def test_labels_of_targets_and_metrics_do_not_collide(local: Any, backends: Any) -> None:
    """No metric has a label of its target, which Prometheus would rename."""
    assert local.prometheus.until('up{job="venvd-backends"} == 1')
    assert not [name for name in local.prometheus.api("labels") if name.startswith("exported_")]


def test_the_controllers_metrics_are_scraped(local: Any, backends: Any) -> None:
    """Prometheus has backends by type and state, builds, and operations by kind and outcome."""
    for kind in TYPES:
        assert local.prometheus.value(f'venvd_backends{{type="{kind}",state="running"}} == 1') == 1
    assert local.prometheus.value('venvd_build_duration_seconds_count{outcome="succeeded"} >= 1') >= 1
    ended = 'venvd_operation_duration_seconds_count{kind="backend.start",state="succeeded"} >= 3'
    assert local.prometheus.value(ended) >= len(TYPES)
    assert local.prometheus.value("venvd_engine_up") == 1


def test_a_replaced_session_shows_with_its_cause(local: Any, backends: dict[str, dict[str, Any]]) -> None:
    """A session that user code ends counts as a restart with the cause `exit`."""
    backend = backends["http"]
    client = CALLERS["http"](backend["url"], backend["token"])
    with pytest.raises(errors.SessionLost):
        client("eval", {"expression": "__import__('os')._exit(3)"})
    client.close()
    series = 'venvd_worker_restarts_total{backend="late-http",cause="exit"} == 1'
    assert local.prometheus.value(series) == 1


def test_a_removed_backend_is_no_longer_a_target(local: Any) -> None:
    """A target goes with its backend: stopping a backend raises no alert."""
    local.controller.backend(local.venv, "http", name="short")
    local.prometheus.until('up{backend="short"} == 1')
    local.controller.api("DELETE", "/v1/backends/short")
    local.prometheus.until('absent(up{backend="short"})')


def test_the_published_token_opens_metrics_only(local: Any, backends: Any) -> None:
    """The scraper's token reads neither venvs nor tokens of backends."""
    token = (local.prometheus.directory / "published" / "token").read_text().strip()
    assert token != local.controller.token
    assert local.controller.raw("GET", "/v1/sd/prometheus", token=token)[0] == http.client.OK
    for path in ("/v1/backends", "/v1/venvs", "/v1/config", "/v1/backends/late-http"):
        assert local.controller.raw("GET", path, token=token)[0] == http.client.FORBIDDEN


@pytest.mark.parametrize("where", ["controller", *TYPES])
def test_the_exposition_is_valid(local: Any, backends: Any, where: str) -> None:
    """Promtool accepts names, types and help texts."""
    path = "/metrics" if where == "controller" else f"/v1/backends/late-{where}/metrics"
    connection = http.client.HTTPConnection("127.0.0.1", local.controller.port, timeout=TIMEOUT)
    connection.request("GET", path, headers={"Authorization": f"Bearer {local.controller.token}"})
    text = connection.getresponse().read().decode()
    connection.close()
    check = promtool("check", "metrics", text=text)
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_the_documentation_lists_every_metric(local: Any, backends: Any) -> None:
    """docs/monitoring.md lists exactly the metrics of venvd."""
    local.prometheus.until("venvd_worker_memory_bytes")
    exposed = {name for job in ("venvd-controller", "venvd-backends") for name in _list_families(local, job)}
    documented = set(re.findall(r"`(venvd_\w+)`", (ROOT / "docs" / "monitoring.md").read_text()))
    assert documented == exposed


def _list_families(monitored: Any, job: str) -> set[str]:
    """List the names of venvd's metrics; a histogram is one."""
    series = monitored.prometheus.query(f'{{job="{job}",__name__=~"venvd_.+"}}')
    return {re.sub(r"_(bucket|sum|count|created)$", "", each["metric"]["__name__"]) for each in series}


CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VenvdError)}


def _check_selector(selector: Selector, series: list[dict[str, str]]) -> None:
    assert series, f"there is no metric {selector.metric}"
    for label, how, value in selector.matchers:
        values = {each[label] for each in series if label in each}
        assert values, f"{selector.metric} has no label {label}"
        if label == "outcome":
            values |= CODES
        if how == "=":
            assert value in values, f"{selector.metric} never has {label}={value}"


@pytest.mark.parametrize("expression", sorted(set(all_expressions().values())))
def test_rules_and_dashboard_use_existing_series(local: Any, backends: Any, expression: str) -> None:
    """Each expression names metrics, labels and values that controller and backends expose."""
    for kind in TYPES:
        local.prometheus.until(f'venvd_ready{{type="{kind}"}}')
    parsed = selectors(expression)
    assert parsed
    for selector in parsed:
        _check_selector(selector, [each["metric"] for each in local.prometheus.query(selector.metric)])


@pytest.mark.parametrize("panel", sorted(panel_expressions()))
def test_each_panel_shows_something(local: Any, backends: Any, panel: str) -> None:
    """The expression of each panel has a result after some calls."""
    local.prometheus.until(panel_expressions()[panel])
