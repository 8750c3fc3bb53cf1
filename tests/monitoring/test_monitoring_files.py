"""The shipped files: configuration, alert rules, dashboard."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from harness.prometheus import MONITORING, promtool, shipped
from harness.promql import Selector, dashboard, panels, rules, selectors


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """Promtool accepts the configuration and the rule files that it names."""
    token = tmp_path / "token"
    token.write_text("x")
    for name in shipped()["rule_files"]:
        (tmp_path / name).write_text((MONITORING / name).read_text())
    text = (MONITORING / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yaml").write_text(text.replace("/run/venvd-monitoring/token", str(token)))
    check = promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    assert check.returncode == 0, check.stdout + check.stderr
    assert "rules found" in check.stdout


def test_the_rules_are_valid() -> None:
    """Promtool accepts every rule."""
    check = promtool("check", "rules", str(MONITORING / "alerts.yaml"))
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_rules_fire_as_expected() -> None:
    """Each case of alerts.test.yaml fires the alerts that it names, with their texts."""
    check = promtool("test", "rules", str(MONITORING / "alerts.test.yaml"))
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_rule_has_a_case() -> None:
    """Some case of alerts.test.yaml expects each alert."""
    cases = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
    checks = itertools.chain.from_iterable(case["alert_rule_test"] for case in cases)
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(rules())


def test_every_rule_has_severity_and_description() -> None:
    """Each rule has one of three severities, a summary and a description."""
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name


def test_a_backend_is_found_within_one_scrape_interval() -> None:
    """Prometheus refreshes the targets more often than it scrapes them."""
    config = shipped()
    interval = int(config["global"]["scrape_interval"].removesuffix("s"))
    refresh_intervals = [
        int(discovery["refresh_interval"].removesuffix("s"))
        for job in config["scrape_configs"]
        for discovery in job.get("http_sd_configs", ())
    ]
    assert refresh_intervals
    assert max(refresh_intervals) <= interval / 2


def test_only_the_metrics_token_is_used() -> None:
    """Every request of Prometheus carries the published token, read from its file."""
    assert set(_list_credentials(shipped())) == {"/run/venvd-monitoring/token"}
    jobs = shipped()["scrape_configs"]
    assert all("authorization" in job for job in jobs)
    assert all("authorization" in discovery for job in jobs for discovery in job.get("http_sd_configs", ()))


def _list_credentials(part: object) -> list[str]:
    if isinstance(part, dict):
        own = [str(part["credentials_file"])] if "credentials_file" in part else []
        return own + [path for each in part.values() for path in _list_credentials(each)]
    return [path for each in part for path in _list_credentials(each)] if isinstance(part, list) else []


def test_the_dashboard_can_be_imported() -> None:
    """Panels have unique IDs, the data source of the import, and places that do not overlap."""
    board = dashboard()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert names == {"datasource", "venv", "backend"}
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_fits_every_site() -> None:
    """The dashboard holds no address and no ID of an installation's data source."""
    text = json.dumps(dashboard())
    assert "://" not in text
    assert all("uid" not in variable for variable in dashboard()["templating"]["list"])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", [Selector("a", ())]),
        (
            'sum by (x, y) (rate(a_total{b=~"c|d", e!="f"}[5m]))',
            [Selector("a_total", (("b", "=~", "c|d"), ("e", "!=", "f")))],
        ),
        ('up{job="x"} == 0 or absent(up)', [Selector("up", (("job", "=", "x"),)), Selector("up", ())]),
        ("histogram_quantile(0.5, sum by (le) (rate(b_bucket[1h]))) > 1e3", [Selector("b_bucket", ())]),
        ("a / on (x) group_left (y) b offset 5m", [Selector("a", ()), Selector("b", ())]),
    ],
)
def test_selectors_are_parsed(expression: str, expected: list[Selector]) -> None:
    """Names of metrics are distinguished from functions, labels, keywords and numbers."""
    assert selectors(expression) == expected
