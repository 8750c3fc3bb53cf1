"""The shipped files by themselves: configuration, alert rules, dashboard."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from harness.prometheus import MONITORING, promtool, shipped
from harness.promql import Selector, dashboard, panels, rules, selectors


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """Promtool accepts the configuration with the rules that it names."""
    token = tmp_path / "token"
    token.write_text("x")
    for name in shipped()["rule_files"]:
        (tmp_path / name).write_text((MONITORING / name).read_text())
    text = (MONITORING / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yaml").write_text(text.replace("/run/venvd-monitoring/token", str(token)))
    done = promtool("check", "config", str(tmp_path / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_the_rules_are_valid() -> None:
    """Promtool accepts every rule."""
    done = promtool("check", "rules", str(MONITORING / "alerts.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_fire_when_they_should() -> None:
    """Each case of alerts.test.yaml gives the alerts that it names, with their texts."""
    done = promtool("test", "rules", str(MONITORING / "alerts.test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case() -> None:
    """Each alert is seen to fire by alerts.test.yaml."""
    cases = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
    checks = itertools.chain.from_iterable(case["alert_rule_test"] for case in cases)
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == set(rules())


def test_every_rule_says_how_bad_and_what_to_do() -> None:
    """Severity is one of three, and summary and description are there."""
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description"}, name


def test_a_backend_is_found_within_one_scrape_interval() -> None:
    """Discovery is asked more often than targets are scraped."""
    found = shipped()
    interval = int(found["global"]["scrape_interval"].removesuffix("s"))
    asked = [
        int(discovery["refresh_interval"].removesuffix("s"))
        for job in found["scrape_configs"]
        for discovery in job.get("http_sd_configs", ())
    ]
    assert asked
    assert max(asked) <= interval / 2


def test_only_the_metrics_token_is_used() -> None:
    """Every request of Prometheus carries the token that is handed out to it, by file."""
    assert set(_credentials(shipped())) == {"/run/venvd-monitoring/token"}
    jobs = shipped()["scrape_configs"]
    assert all("authorization" in job for job in jobs)
    assert all("authorization" in found for job in jobs for found in job.get("http_sd_configs", ()))


def _credentials(part: object) -> list[str]:
    if isinstance(part, dict):
        here = [str(part["credentials_file"])] if "credentials_file" in part else []
        return here + [found for each in part.values() for found in _credentials(each)]
    return [found for each in part for found in _credentials(each)] if isinstance(part, list) else []


def test_the_dashboard_can_be_imported() -> None:
    """Panels have IDs of their own, a data source that is asked for, and do not lie on each other."""
    found = dashboard()
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    names = {variable["name"] for variable in found["templating"]["list"]}
    assert names == {"datasource", "venv", "backend"}
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_names_no_one_site() -> None:
    """Neither an address nor the ID of a data source of one installation is in it."""
    text = json.dumps(dashboard())
    assert "://" not in text
    assert all("uid" not in variable for variable in dashboard()["templating"]["list"])


@pytest.mark.parametrize(
    ("expression", "found"),
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
def test_selectors_are_found(expression: str, found: list[Selector]) -> None:
    """Names of metrics are told from functions, labels, keywords and numbers."""
    assert selectors(expression) == found
