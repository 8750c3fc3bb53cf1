"""A container without any network is scraped like any other: through the controller."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from harness.callers import CALLERS

pytestmark = pytest.mark.docker


def test_a_backend_without_a_network_is_scraped(docker: Any) -> None:
    """A pipe backend whose two containers have no network has its calls, sessions and memory in Prometheus."""
    backend = docker.controller.backend(docker.venv, "pipe", name="box")
    client = CALLERS["pipe"](backend["url"], backend["token"])
    for _ in range(3):
        client("eval", {"expression": "1+1"})
    client.close()
    labels = f'backend="box",venv="{docker.venv}",type="pipe",engine="docker"'
    found = f'venvd_requests_total{{{labels},command="eval",outcome="ok"}} == 3'
    assert docker.prometheus.value(found) == 3
    assert docker.prometheus.value(f"up{{{labels}}}") == 1
    assert docker.prometheus.value(f'venvd_worker_memory_bytes{{{labels},part="sessions"}} > 0') > 1e6
    assert _networks(docker.controller) == [{"none"}, {"none"}]


def _networks(controller: Any) -> list[set[str]]:
    """The networks of each container that the controller made."""
    home = (controller.home / "id").read_text().strip()
    listed = subprocess.run(
        ["docker", "ps", "-q", "--filter", f"label=dev.venvd.home={home}"], capture_output=True, text=True, check=True
    )
    text = subprocess.run(["docker", "inspect", *listed.stdout.split()], capture_output=True, text=True, check=True)
    return [set(each["NetworkSettings"]["Networks"]) for each in json.loads(text.stdout)]
