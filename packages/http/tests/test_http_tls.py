"""TLS of HTTP servers, on both event loops: certificates, handshakes that stall, renewal, certificates of clients."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from harness.certificates import make_authority, make_certificate, run_openssl
from harness.waiting import wait_until

from venvd_contract.errors import InvalidRequest
from venvd_http.admission import Admission, AdmissionLimits
from venvd_http.connection import Exchange, FastPath, accept
from venvd_http.edge import Edge
from venvd_http.heads import Head
from venvd_http.listening import listen_tcp, listen_unix
from venvd_http.server import Server, create_server
from venvd_http.tls import Tls, TlsFiles, choose_files

pytestmark = pytest.mark.needs("openssl")

TIMEOUT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities; a server and a client of the first."""
    made = tmp_path_factory.mktemp("tls")
    make_authority(made)
    make_authority(made, "other")
    make_certificate(made, "server")
    make_certificate(made, "client")
    make_certificate(made, "stranger", "other")
    return made


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Accepts its client, and answers with the body of the request."""
    accept(scope)
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Fast(Exchange):
    """Answers `/fast` without the application."""

    def begin(self, _command: str, _head: Head, _body: bytes) -> None:
        self.answer(b"fast")

    def cancel(self) -> None:
        """Do nothing: the answer is out."""


FAST = FastPath({b"/fast": "fast"}, lambda _head: None, Fast)


@dataclass
class Running:
    """A server in a thread."""

    port: int
    tls: Tls
    server: Server
    call: Callable[[Any], Any]
    """Runs a coroutine in the server's loop."""


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop


class Servers:
    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._new_loop = new_loop
        self._running: list[tuple[Server, threading.Thread]] = []

    def start(self, files: TlsFiles, seconds: float = 10.0) -> Running:
        edge, tls = Edge(admission=Admission(AdmissionLimits(seconds))), Tls(files)
        ready = threading.Event()
        server = create_server(
            app, edge, stall_timeout=60, fast_path=FAST, tls=tls, probes={"/livez"}, on_start=ready.set
        )
        listener = listen_tcp("127.0.0.1", 0)
        port, loop = listener.getsockname()[1], self._new_loop()

        def run() -> None:
            loop.run_until_complete(server.serve(sockets=[listener]))
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        self._running.append((server, thread))
        assert ready.wait(TIMEOUT)
        return Running(port, tls, server, lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(TIMEOUT))

    def close(self) -> None:
        for server, thread in self._running:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def servers(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Servers]:
    made = Servers(new_loop)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(servers: Servers, folder: Path) -> Running:
    return servers.start(TlsFiles(folder / "server.pem", folder / "server.key"))


def trusting(folder: Path, cert: str | None = None, authority: str = "ca") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / f"{authority}.pem")
    if cert is not None:
        context.load_cert_chain(folder / f"{cert}.pem", folder / f"{cert}.key")
    return context


def connect(port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT, context=context)


def ask(port: int, context: ssl.SSLContext, path: str = "/", body: bytes = b"hello") -> tuple[int, bytes]:
    with contextlib.closing(connect(port, context)) as connection:
        connection.connect()
        # in one piece: the fast path takes no body that comes later than its head
        connection.sock.sendall(
            b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
        )
        answer = http.client.HTTPResponse(connection.sock, method="POST")
        answer.begin()
        return answer.status, answer.read()


def read_serial(port: int) -> int:
    """Return the serial number of the certificate that the server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as raw, context.wrap_socket(raw) as secured:
        return hash(secured.getpeercert(binary_form=True))


def test_a_request_and_large_bodies(server: Running, folder: Path) -> None:
    """Requests and answers of any size cross TLS."""
    assert ask(server.port, trusting(folder)) == (200, b"hello")
    large = bytes(range(256)) * 20_000
    assert ask(server.port, trusting(folder), body=large) == (200, large)


def test_pipelined_requests_in_the_first_record(server: Running, folder: Path) -> None:
    """What a client sends together with the end of its handshake is not lost."""
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # the last message of the handshake waits for the rest
        with trusting(folder).wrap_socket(raw, server_hostname="localhost") as secured:
            secured.sendall(request + b"a" + request + b"b")
            raw_answer = b""
            secured.settimeout(TIMEOUT)
            while not raw_answer.endswith(b"b"):
                received = secured.recv(65536)
                assert received, raw_answer
                raw_answer += received
    assert raw_answer.count(b"HTTP/1.1 200 OK") == 2


def test_only_current_versions(server: Running, folder: Path) -> None:
    """A server takes TLS 1.2 and 1.3."""
    assert server.tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    context = trusting(folder)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert ask(server.port, context) == (200, b"hello")


def test_plain_http_is_cut_off(server: Running) -> None:
    """A client that does not speak TLS is closed, and gets no answer in plain text."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in client.recv(65536)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_a_handshake_that_stalls_is_cut_off(servers: Servers, folder: Path, sent: bytes) -> None:
    """A client that is silent before or within its handshake has the time of one without a token."""
    server = servers.start(TlsFiles(folder / "server.pem", folder / "server.key"), seconds=0.5)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        client.sendall(sent)
        assert client.recv(1) == b""


def test_a_silent_client_after_its_handshake_is_cut_off(servers: Servers, folder: Path) -> None:
    """A client that is silent behind its handshake has the rest of that time."""
    server = servers.start(TlsFiles(folder / "server.pem", folder / "server.key"), seconds=0.5)
    with (
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw,
        trusting(folder).wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=True) as secured,
    ):
        assert secured.recv(1) == b""


def test_the_end_of_a_server_waits_for_no_handshake(servers: Servers, folder: Path) -> None:
    """A server that ends closes connections whose handshakes have not ended."""
    server = servers.start(TlsFiles(folder / "server.pem", folder / "server.key"), seconds=3600)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
        wait_until(lambda: server.server.server_state.connections, "the server sees the connection", TIMEOUT)
        server.server.should_exit = True
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_renewed_certificate(
    servers: Servers, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """New connections get a new certificate, open ones go on; broken files leave the old certificate in use."""
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key")
    for path in (files.cert, files.key):
        shutil.copy(folder / path.name, path)
    server = servers.start(files)
    first = read_serial(server.port)
    kept = connect(server.port, trusting(folder))
    kept.request("POST", "/", b"1")
    assert kept.getresponse().read() == b"1"

    shutil.copy(folder / "client.key", files.key)
    wait_until(lambda: "it is not the key of the certificate" in caplog.text, "the server tells of the key", TIMEOUT)
    assert read_serial(server.port) == first

    shutil.copy(folder / "client.pem", files.cert)
    wait_until(lambda: read_serial(server.port) != first, "the server shows the new certificate", TIMEOUT)
    kept.request("POST", "/", b"2")
    assert kept.getresponse().read() == b"2"
    kept.close()


def test_certificates_of_clients(servers: Servers, folder: Path) -> None:
    """With a client authority, a client without a certificate may only probe; one of another authority is cut off."""
    server = servers.start(TlsFiles(folder / "server.pem", folder / "server.key", folder / "ca.pem"))
    assert ask(server.port, trusting(folder, "client")) == (200, b"hello")
    assert ask(server.port, trusting(folder), "/livez") == (200, b"hello")
    assert ask(server.port, trusting(folder, "client"), "/fast") == (200, b"fast")
    for path in ("/", "/fast"):
        status, body = ask(server.port, trusting(folder), path)
        assert (status, b"VENVD_TLS_CLIENT_CA" in body) == (403, True)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(server.port, trusting(folder, "stranger"))


def test_unix_sockets_stay_plain(server: Running, tmp_path: Path) -> None:
    """A Unix socket of a server with TLS has none."""
    server.call(server.server.add_listener(listen_unix(tmp_path / "s", 0o600)))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(tmp_path / "s"))
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        answer = b""
        while part := client.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("cert", "key", "ca", "says"),
    [
        ("server.pem", "client.key", None, "VENVD_TLS_KEY: .*client.key cannot be used: it is not the key of the cert"),
        ("nowhere.pem", "server.key", None, "VENVD_TLS_CERT: .*nowhere.pem cannot be used: No such file"),
        ("server.pem", "nowhere.key", None, "VENVD_TLS_KEY: .*nowhere.key cannot be used: No such file"),
        ("names", "server.key", None, "VENVD_TLS_CERT: .*names cannot be used: it contains no certificate"),
        ("server.pem", "locked.key", None, "VENVD_TLS_KEY: .*locked.key cannot be used: it has a password"),
        ("server.pem", "server.key", "names", "VENVD_TLS_CLIENT_CA: .*names cannot be used: .* no certificate"),
    ],
)
def test_files_that_cannot_be_used(folder: Path, cert: str, key: str, ca: str | None, says: str) -> None:
    """The error names the setting, the file and what is wrong with it."""
    words = ("-in", f"{folder}/server.key", "-aes256", "-passout", "pass:secret", "-out", f"{folder}/locked.key")
    run_openssl("ec", *words)
    with pytest.raises(InvalidRequest, match=says):
        Tls(TlsFiles(folder / cert, folder / key, ca and folder / ca))


def test_files_that_belong_together() -> None:
    """A certificate without its key, and an authority of clients without both, are refused."""
    one = Path("/a.pem")
    assert choose_files(None, None, None) is None
    assert choose_files(one, one, None) == TlsFiles(one, one)
    for files in ((one, None, None), (None, one, None)):
        with pytest.raises(ValueError, match="VENVD_TLS_CERT and VENVD_TLS_KEY belong together"):
            choose_files(*files)
    with pytest.raises(ValueError, match="VENVD_TLS_CLIENT_CA needs VENVD_TLS_CERT and VENVD_TLS_KEY"):
        choose_files(None, None, one)
