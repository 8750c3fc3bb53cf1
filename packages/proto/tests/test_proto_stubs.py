"""The proto files and what is generated from them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from venvd_proto.v1 import python_service_pb2, session_service_pb2, venv_service_pb2

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "proto").rglob("*.proto"))
SERVICES = [
    service
    for module in (python_service_pb2, session_service_pb2, venv_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


def test_the_stubs_are_what_the_sources_say() -> None:
    """Generating the stubs anew changes nothing."""
    finished = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "proto"), "--check"], capture_output=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr.decode()


def test_stale_stubs_are_named(tmp_path: Path) -> None:
    """A proto file that says more than its stubs fails the check, which names them."""
    for name in ("proto", "scripts", "packages/proto"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path / name)], check=True)
    source = tmp_path / "proto" / "venvd" / "v1" / "session_service.proto"
    source.write_text(source.read_text() + "\n// New.\nmessage New {}\n")
    finished = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "proto"), "--check"], capture_output=True, timeout=120, check=False
    )
    assert finished.returncode != 0
    assert b"session_service_pb2.py" in finished.stderr
    assert b"venv_service_pb2.py" not in finished.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_everything_is_explained(source: Path) -> None:
    """Every service, method, message, oneof and field has a comment of its own before it."""
    lines = source.read_text().splitlines()
    declares = re.compile(r"\s*(service|rpc|message|oneof) |.* = \d+;$")
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if declares.match(line) and not before.lstrip().startswith("//")
    ]
    assert bare == []


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_methods_have_messages_of_their_own(service: object) -> None:
    """Each method has its own request and response, named after it, so that each can grow."""
    for method in service.methods:  # type: ignore[attr-defined]
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"


def test_every_file_names_its_packages() -> None:
    """Generators for C#, Go and Java find the name of the package to make."""
    for source in (ROOT / "proto" / "venvd").rglob("*.proto"):
        text = source.read_text()
        assert 'option csharp_namespace = "Venvd.V1";' in text
        assert re.search(r'option go_package = ".+;venvdv1";', text)
        assert 'option java_package = "dev.venvd.v1";' in text
