"""A container without a network is scraped through the controller."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from harness.callers import CALLERS
from harness.compose import list_containers

pytestmark = pytest.mark.docker


def test_a_backend_without_a_network_is_scraped(docker: Any) -> None:
    """Prometheus has calls, sessions and memory of a pipe backend whose two containers have no network."""
    backend = docker.controller.backend(docker.venv, "pipe", name="box")
    client = CALLERS["pipe"](backend["url"], backend["token"])
    for _ in range(3):
        client("eval", {"expression": "1+1"})
    client.close()
    labels = f'backend="box",venv="{docker.venv}",type="pipe",engine="docker"'
    series = f'venvd_requests_total{{{labels},command="eval",outcome="ok"}} == 3'
    assert docker.prometheus.value(series) == 3
    assert docker.prometheus.value(f"up{{{labels}}}") == 1
    assert docker.prometheus.value(f'venvd_worker_memory_bytes{{{labels},part="sessions"}} > 0') > 1e6
    assert _list_networks(docker.controller) == [{"none"}, {"none"}]


def _list_networks(controller: Any) -> list[set[str]]:
    """List the networks of each container of the controller's home."""
    home = (controller.home / "id").read_text().strip()
    inspect = ["docker", "inspect", *list_containers(home)]
    text = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    return [set(each["NetworkSettings"]["Networks"]) for each in json.loads(text)]
