"""`docker compose --profile monitoring up --wait`, as an operator runs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port
from harness.prometheus import Prometheus
from harness.stack import ROOT, remove_images

pytestmark = [pytest.mark.docker, pytest.mark.network]


class Project:
    """One Compose project of its own name, ports and run directory, without a manifest."""

    def __init__(self, place: Path, image: str) -> None:
        self.port, scraper = free_port(), free_port()
        self.name = f"venvd-test-{self.port}"
        self.prometheus = Prometheus(scraper)
        manifest = place / "venvd.yaml"
        manifest.write_text("backends: []\n")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")} | {
            "COMPOSE_PROFILES": "monitoring",
            "VENVD_PUBLISHED_PORT": str(self.port),
            "VENVD_PROMETHEUS_PORT": str(scraper),
            "VENVD_PROMETHEUS_IMAGE": image,
            "VENVD_HOST_RUN_DIR": str(place / "run"),
            "VENVD_MANIFEST": str(manifest),
            "VENVD_TAG": "test-monitoring",
        }

    def compose(self, *words: str) -> str:
        command = ["docker", "compose", "--project-directory", str(ROOT), "--project-name", self.name, *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def controller(self, *words: str) -> str:
        return self.compose("exec", "-T", "controller", *words)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {
            "Authorization": f"Bearer {self.controller('cat', '/var/lib/venvd/token')}",
            "Content-Type": "application/json",
        }
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    for script in ("deploy/compose-plugin", "scripts/compose-env"):
        subprocess.run([ROOT / script], check=True)
    made = subprocess.run([ROOT / "deploy/monitoring/prometheus-image"], capture_output=True, text=True, check=True)
    place = Path(tempfile.mkdtemp(prefix="venvd-m-"))
    found = Project(place, made.stdout.strip())
    home = ""
    try:
        found.compose("up", "--detach", "--wait", "--build")
        home = found.controller("cat", "/var/lib/venvd/id")
        yield found
    finally:
        with contextlib.suppress(AssertionError):
            found.compose("stop")
        _tidy(home)
        found.compose("down", "--volumes", "--timeout", "1")
        shutil.rmtree(place, ignore_errors=True)


def _tidy(home: str) -> None:
    """Remove what the controller made: it carries its home's label."""
    if not home:
        return
    mine = ["docker", "ps", "-aq", "--filter", f"label=dev.venvd.home={home}"]
    if keys := subprocess.run(mine, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "rm", "--force", *keys], capture_output=True, check=False)
    remove_images(home)


def test_a_backend_that_is_started_later_is_scraped(project: Project) -> None:
    """Prometheus finds the controller, and then a backend without a network that did not exist when it started."""
    assert project.prometheus.value('up{job="venvd-controller",instance="controller:8600"} == 1') == 1
    assert not project.prometheus.query('up{job="venvd-backends"}')
    started = project.api("POST", "/v1/backends", {"type": "pipe", "name": "late"})
    end = time.monotonic() + 240
    while (state := project.api("GET", "/v1/backends/late")["state"]) != "running" and time.monotonic() < end:
        time.sleep(0.5)
    assert state == "running", project.api("GET", f"/v1/operations/{started['operation']['id']}")
    assert project.prometheus.value('up{backend="late",type="pipe",engine="docker",venv="default"} == 1') == 1
    assert project.prometheus.value('venvd_ready{backend="late"}') == 1
    assert project.prometheus.value('venvd_backends{type="pipe",state="running"} == 1') == 1


def test_the_alert_rules_are_loaded(project: Project) -> None:
    """Every rule is evaluated without an error."""
    project.prometheus.until('up{job="venvd-controller"} == 1')
    groups = project.prometheus.api("rules")["groups"]
    assert {group["name"] for group in groups} == {"venvd-controller", "venvd-backends"}
    assert not [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]


def test_prometheus_sees_the_metrics_token_and_nothing_else_of_the_controller(project: Project) -> None:
    """Neither the home nor the Docker socket is mounted there, and the one token is not the admin's."""
    key = project.compose("ps", "--quiet", "prometheus")
    text = subprocess.run(["docker", "inspect", key], capture_output=True, text=True, check=True).stdout
    (container,) = json.loads(text)
    places = {mount["Destination"]: mount["RW"] for mount in container["Mounts"]}
    assert places == {"/etc/prometheus": False, "/run/venvd-monitoring": False, "/prometheus": True}
    assert container["Config"]["User"] == "65534:65534"
    assert project.controller("ls", "/run/venvd-monitoring") == "token"
    given = project.controller("cat", "/run/venvd-monitoring/token")
    assert given == project.controller("cat", "/var/lib/venvd/metrics-token")
    assert given != project.controller("cat", "/var/lib/venvd/token")
