"""`docker compose --profile monitoring up --wait`, as an operator runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from harness.compose import ComposeProject, running_project
from harness.ports import free_port
from harness.prometheus import Prometheus
from harness.stack import ROOT
from harness.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.long]


@dataclass
class Monitored:
    project: ComposeProject
    prometheus: Prometheus


@pytest.fixture(scope="module")
def monitored() -> Iterator[Monitored]:
    build = [ROOT / "deploy/monitoring/prometheus-image"]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    port = free_port()
    env = {
        "COMPOSE_PROFILES": "monitoring",
        "VENVD_PROMETHEUS_PORT": str(port),
        "VENVD_PROMETHEUS_IMAGE": image,
        "VENVD_TAG": "test-monitoring",
    }
    with running_project("backends: []\n", env) as project:
        yield Monitored(project, Prometheus(port))


def test_a_new_backend_is_scraped(monitored: Monitored) -> None:
    """Prometheus finds the controller, and later a new backend that has no network."""
    assert monitored.prometheus.value('up{job="venvd-controller",instance="controller:8600"} == 1') == 1
    assert not monitored.prometheus.query('up{job="venvd-backends"}')
    project = monitored.project
    started = project.api("POST", "/v1/backends", {"type": "pipe", "name": "late"})
    operation = f"/v1/operations/{started['operation']['id']}"

    def is_running() -> bool:
        return bool(project.api("GET", "/v1/backends/late")["state"] == "running")

    wait_until(is_running, lambda: project.api("GET", operation), 300)
    assert monitored.prometheus.value('up{backend="late",type="pipe",engine="docker",venv="default"} == 1') == 1
    assert monitored.prometheus.value('venvd_ready{backend="late"}') == 1
    assert monitored.prometheus.value('venvd_backends{type="pipe",state="running"} == 1') == 1


def test_the_alert_rules_are_loaded(monitored: Monitored) -> None:
    """Every rule is evaluated without an error."""
    monitored.prometheus.until('up{job="venvd-controller"} == 1')
    groups = monitored.prometheus.api("rules")["groups"]
    assert {group["name"] for group in groups} == {"venvd-controller", "venvd-backends"}
    assert not [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]


def test_prometheus_has_the_metrics_token_only(monitored: Monitored) -> None:
    """Its container mounts neither the home nor the Docker socket, and its token is not the admin's."""
    project = monitored.project
    container = project.inspect("prometheus")
    mounts = {mount["Destination"]: mount["RW"] for mount in container["Mounts"]}
    assert mounts == {"/etc/prometheus": False, "/run/venvd-monitoring": False, "/prometheus": True}
    assert container["Config"]["User"] == "65534:65534"
    assert project.run_in_controller("ls", "/run/venvd-monitoring") == "token"
    copy = project.run_in_controller("cat", "/run/venvd-monitoring/token")
    assert copy == project.run_in_controller("cat", "/var/lib/venvd/metrics-token")
    assert copy != project.run_in_controller("cat", "/var/lib/venvd/token")
