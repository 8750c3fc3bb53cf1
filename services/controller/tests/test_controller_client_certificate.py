"""Calls that the controller passes on to backends which ask their clients for certificates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.certificates import make_authority, make_certificate

from venvd_contract.errors import Forbidden, Unavailable, VenvdError
from venvd_controller.certificates import read_given
from venvd_controller.forwarding import ForwardedCall, Forwarder
from venvd_controller.settings import Settings
from venvd_engines.engine import LaunchRecord
from venvd_http.asgi import respond
from venvd_http.edge import Edge
from venvd_http.listening import listen_tcp
from venvd_http.server import create_server
from venvd_http.tls import Tls, TlsFiles

pytestmark = pytest.mark.needs("openssl")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Refuses one path by itself, and answers all others."""
    del receive
    await respond(send, 403 if scope["path"] == "/refused" else 200, b'{"said": "by the backend"}')


@pytest.fixture(scope="module")
def record(folder: Path) -> Iterator[LaunchRecord]:
    """The launch of a server whose clients need certificates."""
    ready = threading.Event()
    files = TlsFiles(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    server = create_server(app, Edge(), stall_timeout=60, tls=Tls(files), on_start=ready.set)
    listener = listen_tcp("127.0.0.1", 0)
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    assert ready.wait(60)
    given = read_given(str(files.cert))
    yield LaunchRecord("memory", "x", url, url, {}, certificate_file=str(files.cert), certificate=given)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    make_authority(made)
    make_authority(made, "other")
    for name in ("server", "client"):
        make_certificate(made, name)
    make_certificate(made, "stranger", "other")
    return made


def pass_on(record: LaunchRecord, files: tuple[Path, Path] | None, path: str = "/api/eval") -> tuple[int, bytes]:
    """Pass a call on to a backend, and return what its client gets."""
    backends: Any = SimpleNamespace(
        get_row=lambda _name: SimpleNamespace(spec={"type": "http"}),
        get_launch_record=lambda _name: record,
        list_launches=lambda _name: [SimpleNamespace(is_router=False)],
        tokens=SimpleNamespace(derive=lambda _row: None),
    )
    caller: Any = SimpleNamespace(name="admin", title="the admin", is_home=True)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return await asyncio.get_running_loop().create_future()  # the client stays

    call = ForwardedCall(Forwarder(backends, files), caller, "api", path, b"{}")
    asyncio.run(call({"type": "http", "method": "POST", "headers": []}, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_the_controller_shows_its_certificate(record: LaunchRecord, folder: Path) -> None:
    """A backend takes calls with a certificate of its authority, and its own refusals reach the client unchanged."""
    files = (folder / "client.pem", folder / "client.key")
    assert pass_on(record, files) == (200, b'{"said": "by the backend"}')
    assert pass_on(record, files, "/refused") == (403, b'{"said": "by the backend"}')


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (None, Forbidden, r"has none to show: set VENVD_CLIENT_CERT and VENVD_CLIENT_KEY of the controller"),
        ("stranger", Unavailable, r"is the one in VENVD_CLIENT_CERT of the controller signed"),
        ("nothing", Unavailable, r"nothing\.pem .* cannot be used: No such file"),
    ],
)
def test_a_certificate_that_is_missing(
    record: LaunchRecord, folder: Path, name: str | None, error: type[VenvdError], said: str
) -> None:
    """The error says what to set in the controller, for the web page shows it."""
    files = (folder / f"{name}.pem", folder / f"{name}.key") if name else None
    with pytest.raises(error, match=said):
        pass_on(record, files)


def test_settings_that_need_each_other(tmp_path: Path) -> None:
    """A certificate without its key is refused when the controller starts."""
    with pytest.raises(
        ValueError, match="VENVD_CLIENT_CERT and VENVD_CLIENT_KEY belong together: set both, or neither"
    ):
        Settings(home=tmp_path, client_cert=tmp_path / "client.pem")
