"""The commands of docs/clients.md start backends that the old clients find by their defaults."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import Client, OldHttpClient, OldPipeClient, OldRpcClient
from compat.dotnet.types import INT64
from harness.cli import run
from harness.controller import Controller, running_controller
from harness.ports import free_port
from harness.stack import ROOT

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs" / "clients.md").read_text()
STARTS = re.findall(r"\$ venvd (start .*?) +# (PythonHost\w+)$", GUIDE, re.MULTILINE)
COMMANDS = {client: shlex.split(command) for command, client in STARTS}


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """The temporary directory of controller and clients, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="venvd-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def controller(temporary: Path) -> Iterator[Controller]:
    with running_controller("local", TMPDIR=str(temporary)) as made:
        made.venv("models", python=f"3.{sys.version_info.minor}")
        yield made


def started(controller: Controller, client: str) -> dict[str, int]:
    """Run the command for a client, with free ports in place of the defaults; the port of each option."""
    words = list(COMMANDS[client])
    ports = {option: free_port() for option in words if option.endswith("port")}
    for option, port in ports.items():
        words[words.index(option) + 1] = str(port)
    environment = {"PATH": os.environ["PATH"], "VENVD_URL": controller.url, "VENVD_TOKEN": controller.token}
    run(environment, *words)
    return ports


def works(client: Client) -> bool:
    with contextlib.closing(client):
        return client.initialize() and client.evaluate(INT64, "2 ** 60") == 2**60


def test_the_http_client(controller: Controller) -> None:
    """The HTTP client reaches the backend at the port that the command names."""
    assert f":{COMMANDS['PythonHostHttp'][-1]}" in OldHttpClient.DEFAULT
    ports = started(controller, "PythonHostHttp")
    assert works(OldHttpClient(f"http://localhost:{ports['--port']}"))


def test_the_pipe_client(controller: Controller, temporary: Path) -> None:
    """The pipe client reaches the backend by its default name, which goes when the backend goes."""
    started(controller, "PythonHostPipe")
    assert works(OldPipeClient())
    controller.delete_backend("models-pipe")
    assert list(temporary.glob("CoreFxPipe_*")) == []


def test_the_rpc_client(controller: Controller) -> None:
    """The rpc client reaches the HTTP port that the command names."""
    assert f":{COMMANDS['PythonHostRpc'][-1]}" in OldRpcClient.DEFAULT
    ports = started(controller, "PythonHostRpc")
    assert works(OldRpcClient(f"http://localhost:{ports['--http-port']}"))
