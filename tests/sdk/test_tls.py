"""The SDK and a controller with TLS: which certificates it trusts, and what it says of others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.certificates import make_authority, make_certificate
from harness.waiting import TIMEOUT, wait_until

import venvd
from venvd.errors import Forbidden, InvalidRequest, NoController, Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.needs("openssl")]


@dataclass
class Running:
    url: str
    token: str
    folder: Path

    def connect(self, ca: str | None = "ca.pem", url: str | None = None) -> venvd.Controller:
        return venvd.Controller(url or self.url, self.token, ca=ca and str(self.folder / ca))


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A controller whose clients need certificates."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("tls")
    make_authority(folder)
    make_authority(folder, "other")
    make_certificate(folder, "client")
    cert, key = make_certificate(folder, "server", names="subjectAltName=DNS:localhost\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    environment |= {"VENVD_HOME": str(home), "VENVD_PORT": "0", "VENVD_ENGINE": "local"}
    environment |= {"VENVD_TLS_CERT": str(cert), "VENVD_TLS_KEY": str(key), "VENVD_TLS_CLIENT_CA": f"{folder}/ca.pem"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "venvd_controller"], env=environment, cwd=home, stderr=log)
    try:

        def read_url() -> str:
            assert process.poll() is None, (home / "log").read_text()
            return (home / "url").read_text().strip() if (home / "url").exists() else ""

        url = wait_until(read_url, "the controller says where it listens")
        assert url.startswith("https://127.0.0.1:")
        yield Running(url.replace("127.0.0.1", "localhost"), (home / "token").read_text().strip(), folder)
    finally:
        process.terminate()
        process.wait(TIMEOUT)


@pytest.fixture
def shown(controller: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client shows its certificate."""
    monkeypatch.setenv("VENVD_CLIENT_CERT", str(controller.folder / "client.pem"))
    monkeypatch.setenv("VENVD_CLIENT_KEY", str(controller.folder / "client.key"))


@pytest.mark.usefixtures("shown")
def test_the_authority_of_a_controller(controller: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ca=` and `VENVD_CA` name the authorities that a client trusts."""
    with controller.connect() as client:
        assert client.venvs.list() == []

    async def list_venvs() -> list[object]:
        async with venvd.AsyncController(controller.url, controller.token) as client:
            return list(await client.venvs.list())

    monkeypatch.setenv("VENVD_CA", str(controller.folder / "ca.pem"))
    assert asyncio.run(list_venvs()) == []


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("ca", [None, "other.pem"])
def test_an_unknown_authority(controller: Running, ca: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not know the authority says so, and how to name it."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with controller.connect(ca) as client, pytest.raises(Unavailable, match="not known here: set VENVD_CA"):
        client.venvs.list()


def test_another_name(controller: Running) -> None:
    """A client does not talk to a server whose certificate lacks the name that it was addressed by."""
    url = controller.url.replace("localhost", "127.0.0.1")
    with controller.connect(url=url) as client, pytest.raises(Unavailable, match=r"not valid for '127\.0\.0\.1'"):
        client.venvs.list()


def test_no_certificate_to_show(controller: Running) -> None:
    """A client without a certificate learns that it needs one."""
    with controller.connect() as client, pytest.raises(Forbidden, match="a client certificate is needed"):
        client.venvs.list()


def test_files_that_cannot_be_used(controller: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing is named with its setting."""
    with controller.connect("nowhere.pem") as client, pytest.raises(InvalidRequest, match=r"VENVD_CA: .*nowhere"):
        client.venvs.list()
    monkeypatch.setenv("VENVD_CLIENT_CERT", "/nowhere.pem")
    with controller.connect() as client, pytest.raises(InvalidRequest, match="VENVD_CLIENT_KEY need each other"):
        client.venvs.list()


def test_the_wrong_scheme(controller: Running) -> None:
    """A plain address of a server with TLS says how its address begins."""
    url = controller.url.replace("https", "http")
    with controller.connect(url=url) as client, pytest.raises(Unavailable, match="its address begins with https://"):
        client.venvs.list()
    with controller.connect(url="https://localhost:9") as client, pytest.raises(NoController):
        client.venvs.list()
