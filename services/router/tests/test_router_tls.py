"""TLS on both sides of the router."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.certificates import make_authority, make_certificate
from harness.router import TOKEN, Replicas, Routers, start_replicas
from harness.stack import Stack

import venvd
from venvd.errors import Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.needs("openssl")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for names that none of the servers has."""
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)
    make_authority(folder)
    make_certificate(folder, "replica", names="subjectAltName=DNS:clients.example\n")
    make_certificate(folder, "other")
    make_certificate(folder, "router")
    return folder


@pytest.fixture(scope="module", params=["http", "rpc"])
def replicas(stack: Stack, folder: Path, request: pytest.FixtureRequest) -> Iterator[Replicas]:
    files = {"VENVD_TLS_CERT": folder / "replica.pem", "VENVD_TLS_KEY": folder / "replica.key"}
    replicas = start_replicas(stack, request.param, 1, files)
    yield replicas
    for running in replicas.running:
        stack.stop(running)


def test_the_router_takes_the_certificate_of_the_table(folder: Path, replicas: Replicas, routers: Routers) -> None:
    """It compares no names, serves TLS itself, and takes no other certificate."""
    entry = {**replicas.entries[0], "certificate": (folder / "replica.pem").read_text()}
    files = {"VENVD_TLS_CERT": f"{folder}/router.pem", "VENVD_TLS_KEY": f"{folder}/router.key"}
    router = routers.start(replicas.kind, [entry], files)
    with venvd.connect(router.url, TOKEN, ca=str(folder / "ca.pem")) as backend:
        assert backend.eval("6 * 7") == 42
    other = {**entry, "certificate": (folder / "other.pem").read_text()}
    router = routers.start(replicas.kind, [other], files)
    with venvd.connect(router.url, TOKEN, ca=str(folder / "ca.pem")) as backend, pytest.raises(Unavailable):
        backend.eval("6 * 7")
