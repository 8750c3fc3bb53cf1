"""Certificates of backends: which one the controller takes when it connects, and what it says of others."""

from __future__ import annotations

import http.server
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from harness.certificates import make_authority, make_certificate

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_contract.internal.replica_table import ReplicaEntry
from venvd_controller import certificates, probes, replicas
from venvd_engines.engine import LaunchRecord

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one authority, one of which has expired."""
    made = tmp_path_factory.mktemp("tls")
    make_authority(made)
    for name in ("first", "second", "stranger"):
        make_certificate(made, name)
    key_file = make_certificate(made, "expired")[1]
    key = load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    name, past = x509.Name([]), datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, past, past + timedelta(days=1))
    (made / "expired.pem").write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return made


class _Handler(http.server.BaseHTTPRequestHandler):
    """Is ready, and notes each request."""

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


class Backend:
    """A server with TLS, and the file that it was given."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder = folder
        self.file = file
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.seen: list[str | None] = []
        self.server.seen = self.seen  # type: ignore[attr-defined]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def show(self, name: str) -> None:
        """Show a certificate to connections that begin now."""
        self.context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def put(self, name: str) -> None:
        """Put a certificate, and that of its authority, into the file."""
        texts = [(self.folder / f"{each}.pem").read_text() for each in (name, "ca")]
        self.file.write_text("a comment\n" + "".join(texts))

    def launch(self) -> LaunchRecord:
        url = f"https://127.0.0.1:{self.server.server_port}"
        given = certificates.read_given(str(self.file))
        return LaunchRecord("memory", "x", url, url, {}, certificate_file=str(self.file), certificate=given)


@pytest.fixture
def backend(folder: Path, tmp_path: Path) -> Iterator[Backend]:
    made = Backend(folder, tmp_path / "cert.pem")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_certificate_that_a_server_was_given(backend: Backend) -> None:
    """It is taken whatever its names are; so are a renewed one, and the old one where the server goes on with it."""
    backend.put("first")
    backend.show("first")
    record = backend.launch()
    assert probes.probe_readiness(record).ready
    backend.put("second")
    assert probes.probe_readiness(record).ready
    backend.show("second")
    assert probes.probe_readiness(record).ready
    backend.show("first")
    backend.file.write_text("half written")
    assert probes.probe_readiness(record).ready


def test_a_server_that_takes_renewals_late(backend: Backend) -> None:
    """It may show the certificate before the last renewal, also to its router, which looks for the newest first."""
    for name in ("stranger", "first", "second"):
        backend.put(name)
        if name == "stranger":
            backend.show("first")
            record = backend.launch()
        probes.probe_readiness(record)
    assert probes.probe_readiness(record).ready
    entry = ReplicaEntry()
    replicas._write_address(entry, record, own=False)
    texts = [(backend.folder / f"{name}.pem").read_text().strip() for name in ("second", "first", "stranger")]
    assert entry.certificate == "\n".join(texts)


def test_another_certificate(backend: Backend) -> None:
    """One of the same authority is refused: the reason says what was expected, and no token is sent."""
    backend.put("first")
    backend.show("stranger")
    record = backend.launch()
    readiness = probes.probe_readiness(record)
    assert (readiness.ready, readiness.answered) == (False, True)
    assert f"another certificate than venvd gave it, which is that in {backend.file} (SHA-256 " in readiness.reason
    with pytest.raises(Unavailable, match="another certificate"):
        probes.fetch(record, "/metrics", "secret")
    bare = replace(record, certificate=None, certificate_file=None)
    assert "venvd gave it none" in probes.probe_readiness(bare).reason
    assert backend.seen == []


def test_a_certificate_that_has_expired(backend: Backend) -> None:
    """The reason says so, and names the file."""
    shutil.copy(backend.folder / "expired.pem", backend.file)
    backend.show("expired")
    assert f"has expired: renew it ({backend.file})" in probes.probe_readiness(backend.launch()).reason


def test_a_server_without_tls(backend: Backend) -> None:
    """A plain server behind an address with TLS gives no handshake, and the reason says so."""
    backend.put("first")
    record = backend.launch()
    plain = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=plain.handle_request, daemon=True)
    thread.start()
    readiness = probes.probe_readiness(replace(record, probe_url=f"https://127.0.0.1:{plain.server_port}"))
    assert (readiness.ready, "TLS with it failed" in readiness.reason) == (False, True)
    thread.join()
    plain.server_close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("nothing", "no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
    ],
)
def test_a_file_that_the_controller_cannot_use(tmp_path: Path, content: str | None, reason: str) -> None:
    """A backend with it does not start, and the error says why."""
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match=f"the controller cannot read {path}: .*{reason}"):
        certificates.read_given(str(path))
