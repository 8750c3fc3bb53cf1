"""The SDK and a controller with TLS: which certificates it trusts, and what it says of others."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from harness.certificates import make_authority, make_certificate
from harness.waiting import TIMEOUT, wait_until

import venvd
from venvd.errors import Forbidden, InvalidRequest, NoController, Unauthenticated, Unavailable
from venvd_contract.resources import VenvSpec

pytestmark = [pytest.mark.slow, pytest.mark.needs("openssl")]


@dataclass
class Running:
    url: str
    token: str
    folder: Path

    def connect(self, ca: str | None = "ca.pem", url: str | None = None) -> venvd.Controller:
        return venvd.Controller(url or self.url, self.token, ca=ca and str(self.folder / ca))

    @property
    def server(self) -> dict[str, str]:
        """The settings of a server with the certificate of the controller."""
        return {"tlsCert": f"{self.folder}/server.pem", "tlsKey": f"{self.folder}/server.key"}


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A controller whose clients need certificates."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("tls")
    make_authority(folder)
    make_authority(folder, "other")
    make_certificate(folder, "client")
    make_certificate(folder, "stranger", "other")
    cert, key = make_certificate(folder, "server", names="subjectAltName=DNS:localhost\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    environment |= {"VENVD_HOME": str(home), "VENVD_PORT": "0", "VENVD_ENGINE": "local"}
    environment |= {"VENVD_TLS_CERT": str(cert), "VENVD_TLS_KEY": str(key), "VENVD_TLS_CLIENT_CA": f"{folder}/ca.pem"}
    environment |= {"VENVD_HOST_DIRS": str(folder)}
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
    show_certificate(controller, monkeypatch)


def show_certificate(controller: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("VENVD_CLIENT_CERT", str(controller.folder / "client.pem"))
    patch.setenv("VENVD_CLIENT_KEY", str(controller.folder / "client.key"))


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


@pytest.mark.usefixtures("shown")
def test_backends_with_tls(controller: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK calls HTTP and gRPC backends with TLS, and the controller probes the former and passes calls on to it."""
    monkeypatch.setenv("VENVD_CA", str(controller.folder / "ca.pem"))
    with controller.connect() as client:
        client.venvs.ensure("plain", VenvSpec(python=client.runtimes.newest()))
        for kind, scheme in (("http", "https"), ("rpc", "grpcs")):
            client.operations.wait(
                client.backends.start(kind, venv="plain", name=kind, server=controller.server).operation
            )
            started = client.backends.get(kind)
            assert (started.url or "").startswith(f"{scheme}://127.0.0.1:")
            with venvd.connect((started.url or "").replace("127.0.0.1", "localhost"), started.token) as backend:
                assert backend.eval("6 * 7") == 42
                assert backend.eval("len(data)", {"data": b"x" * 1_000_000}) == 1_000_000
        url = (client.backends.get("http").url or "").replace("127.0.0.1", "localhost")
        other = str(controller.folder / "other.pem")
        with venvd.connect(url, "vd_x", ca=other) as stranger, pytest.raises(Unavailable, match="VENVD_CA"):
            stranger.eval("1")
        status, answer = ask(controller, "POST", "/v1/backends/http/exec", {"code": "print(6 * 7)"})
        assert (status, answer["stdout"]) == (200, "42\n")
        for kind in ("http", "rpc"):
            client.backends.delete(kind)
        wait_until(lambda: not {"http", "rpc"} & {each.name for each in client.backends.list()}, "they are not removed")


@pytest.fixture(scope="module")
def addresses(controller: Running) -> Iterator[dict[str, str]]:
    """Addresses of a gRPC backend whose clients need certificates, of a plain gRPC server, and of an HTTPS server."""
    made = grpc.server(ThreadPoolExecutor(1))
    plain = made.add_insecure_port("127.0.0.1:0")
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        show_certificate(controller, patch)
        with controller.connect() as client:
            client.venvs.ensure("plain", VenvSpec(python=client.runtimes.newest()))
            server = controller.server | {"tlsClientCa": f"{controller.folder}/ca.pem"}
            client.operations.wait(client.backends.start("rpc", venv="plain", name="shy", server=server).operation)
            port = urlsplit(client.backends.get("shy").url or "").port
    yield {
        "tls": f"localhost:{port}",
        "name": f"127.0.0.1:{port}",
        "plain": f"localhost:{plain}",
        "https": urlsplit(controller.url).netloc,
    }
    made.stop(None).wait()
    with pytest.MonkeyPatch.context() as patch:
        show_certificate(controller, patch)
        with controller.connect() as client:
            client.backends.delete("shy")
            wait_until(lambda: not client.backends.list(), "the backends are not removed")


@pytest.mark.parametrize(
    ("scheme", "where", "ca", "shows", "said"),
    [
        ("grpcs", "tls", "ca", "client", r"unauthenticated"),
        ("grpcs", "tls", "other", "client", r"an authority that is not known here: set VENVD_CA"),
        ("grpcs", "name", "ca", "client", r"not valid for '127\.0\.0\.1'"),
        ("grpcs", "tls", "ca", None, r"asks for a certificate of the client: set VENVD_CLIENT_CERT"),
        ("grpcs", "tls", "ca", "stranger", r"does not accept the certificate .*stranger\.pem of VENVD_CLIENT_CERT"),
        ("grpcs", "plain", "ca", "client", r"does not speak TLS; try grpc://"),
        ("grpcs", "https", "ca", "client", r"no gRPC server: try https://"),
        ("grpc", "tls", "ca", None, r"speaks TLS: its address begins with grpcs://"),
        ("grpc", "none", "ca", None, r"nothing answers at grpc://"),
    ],
)
def test_handshakes_of_grpc(
    controller: Running,
    addresses: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    where: str,
    ca: str,
    shows: str | None,
    said: str,
) -> None:
    """A client learns what is wrong with its handshake and what would be right, as of HTTP; so over asyncio."""
    if shows:
        monkeypatch.setenv("VENVD_CLIENT_CERT", str(controller.folder / f"{shows}.pem"))
        monkeypatch.setenv("VENVD_CLIENT_KEY", str(controller.folder / f"{shows}.key"))
    url = f"{scheme}://{addresses.get(where, 'localhost:9')}"
    authorities = str(controller.folder / f"{ca}.pem")

    async def evaluate() -> None:
        async with venvd.connect_async(url, "vd_wrong", ca=authorities) as backend:
            await backend.eval("1")

    with venvd.connect(url, "vd_wrong", ca=authorities) as backend:
        for run in (
            lambda: backend.eval("1"),
            lambda: backend.put_array(memoryview(b"x")),
            lambda: asyncio.run(evaluate()),
        ):
            with pytest.raises((Unavailable, Unauthenticated)) as raised:
                run()
            assert re.search(said, f"{raised.value.code} {raised.value}")


def ask(controller: Running, method: str, path: str, body: object) -> tuple[int, Any]:
    """Send a request to the controller without the SDK."""
    address = urlsplit(controller.url)
    context = ssl.create_default_context(cafile=controller.folder / "ca.pem")
    context.load_cert_chain(controller.folder / "client.pem", controller.folder / "client.key")
    headers = {"Authorization": f"Bearer {controller.token}", "Content-Type": "application/json"}
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, timeout=TIMEOUT, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_another_name(controller: Running) -> None:
    """A client does not talk to a server whose certificate lacks the name that it was addressed by."""
    url = controller.url.replace("localhost", "127.0.0.1")
    with controller.connect(url=url) as client, pytest.raises(Unavailable, match=r"not valid for '127\.0\.0\.1'"):
        client.venvs.list()


def test_no_certificate_to_show(controller: Running) -> None:
    """A client without a certificate learns that it needs one."""
    with controller.connect() as client, pytest.raises(Forbidden, match="needs a client certificate"):
        client.venvs.list()


def test_files_that_cannot_be_used(controller: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing is named with its setting."""
    with (
        controller.connect("nowhere.pem") as client,
        pytest.raises(InvalidRequest, match=r"ca=.*nowhere\.pem cannot be used: No such file"),
    ):
        client.venvs.list()
    monkeypatch.setenv("VENVD_CLIENT_CERT", "/nowhere.pem")
    with (
        controller.connect() as client,
        pytest.raises(InvalidRequest, match="VENVD_CLIENT_KEY belong together: set both, or neither"),
    ):
        client.venvs.list()


def test_the_wrong_scheme(controller: Running) -> None:
    """A plain address of a server with TLS says how its address begins."""
    url = controller.url.replace("https", "http")
    with controller.connect(url=url) as client, pytest.raises(Unavailable, match="its address begins with https://"):
        client.venvs.list()
    with controller.connect(url="https://localhost:9") as client, pytest.raises(NoController):
        client.venvs.list()
