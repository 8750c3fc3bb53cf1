"""A controller that shares its database with others, without a cluster; tests/kubernetes has those with one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port

from venvd_controller.settings import Settings

pytest.importorskip("lightkube")

FOLLOW = """
import socket, sys, time
from venvd_controller.leader import Lead
lead = Lead(socket.socket(fileno=int(sys.argv[1])))
print(flush=True)
time.sleep(600)
"""
"""What a controller does with messages about its lead."""

NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
    "current-context": "nowhere",
}


def test_a_lease_needs_a_database_of_all(tmp_path: Path) -> None:
    """Controllers with a Lease share a PostgreSQL; with a file of its own, none would know what the others did."""
    with pytest.raises(ValueError, match="needs a VENVD_DATABASE_URL of PostgreSQL"):
        Settings(home=tmp_path, kubernetes_lease="venvd")
    with pytest.raises(ValueError, match="needs a VENVD_DATABASE_URL of PostgreSQL"):
        Settings(home=tmp_path, kubernetes_lease="venvd", database_url=f"sqlite:///{tmp_path}/file")


@pytest.mark.slow
@pytest.mark.parametrize("renewals", [1, 3])
def test_the_kernel_ends_a_lead_that_is_not_renewed(renewals: int) -> None:
    """A lead ends at the time that the last message says, whatever the process does meanwhile."""
    own, other = socket.socketpair()
    command = [sys.executable, "-c", FOLLOW, str(other.fileno())]
    with own, subprocess.Popen(command, pass_fds=[other.fileno()], stdout=subprocess.PIPE) as process:
        other.close()
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(renewals):
            until = time.monotonic() + 1
            own.sendall(json.dumps([until, "", False]).encode() + b"\n")
        assert process.wait(60) == -signal.SIGALRM
        assert time.monotonic() >= until


@pytest.mark.slow
def test_a_controller_ends_with_the_process_that_renews() -> None:
    """If the messages end, so does the controller."""
    own, other = socket.socketpair()
    command = [sys.executable, "-c", FOLLOW, str(other.fileno())]
    with subprocess.Popen(command, pass_fds=[other.fileno()], stdout=subprocess.PIPE) as process:
        other.close()
        assert process.stdout is not None
        process.stdout.readline()
        own.close()
        assert process.wait(60) == 1


@pytest.mark.long
@pytest.mark.slow
def test_without_the_cluster_a_controller_waits(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    """A controller that cannot read its Lease leads nothing, says why, and ends at a signal."""
    (tmp_path / "config").write_text(json.dumps(NOWHERE))
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")} | {
        "KUBECONFIG": str(tmp_path / "config"),
        "VENVD_HOME": str(tmp_path / "home"),
        "VENVD_PORT": str(port),
        "VENVD_ENGINE": "local",
        "VENVD_KUBERNETES_LEASE": "venvd",
        "VENVD_DATABASE_URL": "postgresql+psycopg://venvd@127.0.0.1:1/none",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "venvd_controller"], env=env, stderr=log)

    def ask(path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except OSError:
            return 0, None
        finally:
            connection.close()

    try:
        wait_until(lambda: ask("/livez")[0] == http.client.OK)
        wait_until(lambda: "the cluster does not answer" in ask("/readyz")[1]["detail"])
        assert ask("/readyz?follower=ok")[0] == http.client.SERVICE_UNAVAILABLE
        assert ask("/v1/status")[1]["code"] == "unavailable"
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 0, (tmp_path / "log").read_text()
