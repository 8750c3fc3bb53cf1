"""A real Prometheus, a real controller, and backends of each type that are started after both."""

from __future__ import annotations

import http.client
import re
from typing import Any

import pytest
from harness.callers import CALLERS
from harness.prometheus import promtool
from harness.promql import Selector, all_expressions, panel_expressions, selectors
from harness.stack import ROOT

from venvd_contract import errors
from venvd_contract.errors import UserError, VenvdError

TYPES = ("http", "pipe", "rpc")
ASKED = {"ok": 3, "user_error": 2}


@pytest.fixture(scope="module")
def backends(local: Any) -> dict[str, dict[str, Any]]:
    """One backend of each type, each asked the same things by a client of its transport."""
    made = {kind: local.controller.backend(local.venv, kind, name=f"late-{kind}") for kind in TYPES}
    for kind, backend in made.items():
        client = CALLERS[kind](backend["url"], backend["token"])
        for _ in range(ASKED["ok"]):
            assert client("eval", {"expression": "1+1"}) == {"value": 2}
        for _ in range(ASKED["user_error"]):
            with pytest.raises(UserError):
                client("eval", {"expression": "1/0"})
        client.close()
    local.prometheus.until('count(up{job="venvd-backends"} == 1) == 3')
    return made


@pytest.mark.parametrize("kind", TYPES)
def test_a_backend_that_is_started_later_is_scraped(local: Any, backends: dict[str, dict[str, Any]], kind: str) -> None:
    """What clients asked of it is what Prometheus has, under the names of backend, venv, type and engine."""
    labels = f'backend="late-{kind}",venv="{local.venv}",type="{kind}",engine="local",instance="late-{kind}"'
    assert local.prometheus.value(f"up{{{labels}}} == 1") == 1
    for outcome, count in ASKED.items():
        found = f'venvd_requests_total{{{labels},command="eval",outcome="{outcome}"}}'
        assert local.prometheus.value(f"{found} == {count}") == count
    total = sum(ASKED.values())
    assert local.prometheus.value(f'venvd_request_duration_seconds_count{{{labels},command="eval"}}') == total
    assert local.prometheus.value(f"venvd_ready{{{labels}}}") == 1
    assert local.prometheus.value(f"sum(venvd_sessions{{{labels}}}) == 1") == 1
    assert local.prometheus.value(f'venvd_worker_memory_bytes{{{labels},part="sessions"}} > 0') > 1e6


def test_labels_of_targets_and_of_metrics_do_not_meet(local: Any, backends: Any) -> None:
    """No metric has a label that its target has too: Prometheus would have renamed it."""
    assert local.prometheus.until('up{job="venvd-backends"} == 1')
    assert not [name for name in local.prometheus.api("labels") if name.startswith("exported_")]


def test_the_controllers_numbers_are_there(local: Any, backends: Any) -> None:
    """Backends by type and state, builds, and operations by kind and outcome."""
    for kind in TYPES:
        assert local.prometheus.value(f'venvd_backends{{type="{kind}",state="running"}} == 1') == 1
    assert local.prometheus.value('venvd_build_duration_seconds_count{outcome="succeeded"} >= 1') >= 1
    ended = 'venvd_operation_duration_seconds_count{kind="backend.start",state="succeeded"} >= 3'
    assert local.prometheus.value(ended) >= len(TYPES)
    assert local.prometheus.value("venvd_engine_up") == 1


def test_a_replaced_session_shows_with_its_cause(local: Any, backends: dict[str, dict[str, Any]]) -> None:
    """A session that user code ends counts as a restart by `exit`."""
    backend = backends["http"]
    client = CALLERS["http"](backend["url"], backend["token"])
    with pytest.raises(errors.SessionLost):
        client("eval", {"expression": "__import__('os')._exit(3)"})
    client.close()
    series = 'venvd_worker_restarts_total{backend="late-http",cause="exit"} == 1'
    assert local.prometheus.value(series) == 1


def test_a_backend_that_is_stopped_is_forgotten(local: Any) -> None:
    """A target goes with its backend: stopping a backend raises no alert."""
    local.controller.backend(local.venv, "http", name="short")
    local.prometheus.until('up{backend="short"} == 1')
    local.controller.api("DELETE", "/v1/backends/short")
    local.prometheus.until('absent(up{backend="short"})')


def test_the_token_that_was_handed_out_opens_numbers_only(local: Any, backends: Any) -> None:
    """The scraper's token reads no venv and no backend's token."""
    token = (local.prometheus.place / "handed-out" / "token").read_text().strip()
    assert token != local.controller.token
    assert local.controller.raw("GET", "/v1/sd/prometheus", token=token)[0] == http.client.OK
    for path in ("/v1/backends", "/v1/venvs", "/v1/config", "/v1/backends/late-http"):
        assert local.controller.raw("GET", path, token=token)[0] == http.client.FORBIDDEN


@pytest.mark.parametrize("where", ["controller", *TYPES])
def test_the_exposition_is_well_made(local: Any, backends: Any, where: str) -> None:
    """Promtool has nothing to say about names, types and help texts."""
    path = "/metrics" if where == "controller" else f"/v1/backends/late-{where}/metrics"
    connection = http.client.HTTPConnection("127.0.0.1", local.controller.port, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {local.controller.token}"})
    text = connection.getresponse().read().decode()
    connection.close()
    done = promtool("check", "metrics", text=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_documentation_names_what_is_measured(local: Any, backends: Any) -> None:
    """docs/monitoring.md has every metric of ours, and no other."""
    local.prometheus.until("venvd_worker_memory_bytes")
    told = {name for kind in ("venvd-controller", "venvd-backends") for name in _families(local, kind)}
    written = set(re.findall(r"`(venvd_\w+)`", (ROOT / "docs" / "monitoring.md").read_text()))
    assert written == told


def _families(watched: Any, job: str) -> set[str]:
    """The names of our metrics, those of a histogram as one."""
    series = watched.prometheus.query(f'{{job="{job}",__name__=~"venvd_.+"}}')
    return {re.sub(r"_(bucket|sum|count|created)$", "", each["metric"]["__name__"]) for each in series}


CODES = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VenvdError)}


def _checked(selector: Selector, series: list[dict[str, str]]) -> None:
    assert series, f"there is no metric {selector.metric}"
    for label, how, value in selector.matchers:
        values = {each[label] for each in series if label in each}
        assert values, f"{selector.metric} has no label {label}"
        if label == "outcome":
            values |= CODES
        if how == "=":
            assert value in values, f"{selector.metric} never has {label}={value}"


@pytest.mark.parametrize("expression", sorted(set(all_expressions().values())))
def test_rules_and_dashboard_ask_for_what_there_is(local: Any, backends: Any, expression: str) -> None:
    """Each metric exists in what a controller and backends tell, with the labels and values that are asked for."""
    for kind in TYPES:
        local.prometheus.until(f'venvd_ready{{type="{kind}"}}')
    found = selectors(expression)
    assert found
    for selector in found:
        _checked(selector, [each["metric"] for each in local.prometheus.query(selector.metric)])


@pytest.mark.parametrize("panel", sorted(panel_expressions()))
def test_each_panel_shows_something(local: Any, backends: Any, panel: str) -> None:
    """What a panel asks has an answer once there were calls."""
    local.prometheus.until(panel_expressions()[panel])
