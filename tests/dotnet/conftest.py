"""A venv with Python.NET on each engine, an assembly that the operator brings, and a backend of each type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.controller import Controller, running_controller
from harness.engines import ENGINES

import venvd

SOURCE = Path(__file__).parent / "Environments.cs"


@pytest.fixture(scope="package")
def assemblies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the compiled assembly, and with a library that has no .NET in it."""
    top = tmp_path_factory.mktemp("dotnet")
    for parent in (top, top.parent):
        parent.chmod(0o755)  # the worker host has another user ID
    subprocess.run(["mcs", "-target:library", f"-out:{top / 'Environments.dll'}", str(SOURCE)], check=True)
    (top / "native.dll").write_bytes(b"MZ and no .NET")
    return top


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="package")
def controller(engine: str, assemblies: Path) -> Iterator[Controller]:
    with running_controller(engine, VENVD_HOST_DIRS=str(assemblies.parent)) as made:
        made.venv("net", python=f"3.{sys.version_info.minor}", dotnet=True, assemblies=str(assemblies))
        yield made


@pytest.fixture(scope="package")
def connect(controller: Controller) -> Iterator[Callable[[str], venvd.Backend]]:
    """Gives a client of the backend of a type, which is started when first asked for."""
    clients: dict[str, venvd.Backend] = {}

    def find(kind: str) -> venvd.Backend:
        if kind not in clients:
            started = controller.backend("net", kind)
            clients[kind] = venvd.connect(started["url"], started["token"], timeout=120)
        return clients[kind]

    yield find
    for client in clients.values():
        client.close()
