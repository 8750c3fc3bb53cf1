"""TLS of backends: Secrets that the chart names, and their renewal."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.certificates import make_authority, make_certificate
from harness.release import Release, prepare_release
from harness.waiting import wait_until

import venvd
from venvd_contract.errors import Forbidden

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    make_authority(made)
    return made


def put_secret(release: Release, folder: Path, name: str) -> str:
    """Put a new certificate, for clients of forwarded ports, into the Secret `web`; return it."""
    cert, key = make_certificate(folder, name)
    words = ("create", "secret", "tls", "web", f"--cert={cert}", f"--key={key}", "--dry-run=client", "--output=yaml")
    made = folder / "secret.yaml"
    made.write_text(release.namespace.kubectl(*words))
    release.namespace.kubectl("apply", "--filename", made)
    # a changed pod makes the kubelet read its Secrets at once, and not within two minutes
    chosen = ("--selector=app.kubernetes.io/instance=venvd", "--overwrite")
    release.namespace.kubectl("annotate", "pods", *chosen, f"example.com/renewed={name}")
    return cert.read_text().strip()


@pytest.fixture(scope="module")
def client(folder: Path) -> tuple[Path, Path]:
    """The certificate of the controller and of this program, and its key."""
    return make_certificate(folder, "client")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, folder: Path, client: tuple[Path, Path]) -> Iterator[Release]:
    """A controller that was told of the Secret `web` before that was made."""
    with prepare_release("tls", tmp_path_factory.mktemp("tls")) as prepared:
        cert, key = client
        prepared.namespace.kubectl("create", "secret", "tls", "client", f"--cert={cert}", f"--key={key}")
        shown, shown_key = make_certificate(folder, "guarded")
        files = (f"tls.crt={shown}", f"tls.key={shown_key}", f"ca.crt={folder}/ca.pem")
        prepared.namespace.kubectl("create", "secret", "generic", "guarded", *(f"--from-file={each}" for each in files))
        values = ("backends.tlsSecrets={web,guarded}", "backends.clientTlsSecret=client")
        prepared.change("install", *(word for value in values for word in ("--set", value)))
        prepared.venvd("init", "3.13")
        prepared.venvd("venv", "create", "science", "--python", "3.13")
        yield prepared
        prepared.helm("uninstall", "venvd", "--wait")


def read_shown(release: Release, service: str, port: int) -> str:
    with release.forward(service, port) as url:
        return ssl.get_server_certificate(("127.0.0.1", urlsplit(url).port or 0), timeout=60).strip()


@pytest.mark.parametrize(("kind", "replicas"), [("http", 1), ("http", 2), ("rpc", 2)])
def test_a_renewed_secret_reaches_its_server(release: Release, folder: Path, kind: str, replicas: int) -> None:
    """A backend and its router show the certificate of a Secret, and the renewed one without a restart; calls pass."""
    first = put_secret(release, folder, f"first-{kind}-{replicas}")
    directory = "/etc/venvd/backend-tls/web"
    files = [f"{name}={directory}/tls.{end}" for name, end in (("tlsCert", "crt"), ("tlsKey", "key"))]
    words = [word for each in files for word in ("--server", each)]
    name = f"{kind}-{replicas}"
    scheme, port = ("https", 5678) if kind == "http" else ("grpcs", 50051)
    start = ["start", kind, "--venv", "science", "--name", name, "--replicas", str(replicas), *words, "--json"]
    wait_until(lambda: first in read_mounted(release), "the Secret does not reach the controller", 180)
    started = json.loads(release.venvd(*start))
    assert started["url"] == f"{scheme}://{name}.{release.namespace.name}.svc:{port}"
    assert read_shown(release, name, port) == first
    before = list_pods(release, name)

    ca, token = folder / "ca.pem", started["token"]
    assert evaluate(release, name, port, scheme, token, ca) == 42
    second = put_secret(release, folder, f"second-{kind}-{replicas}")
    wait_until(lambda: read_shown(release, name, port) == second, "the server shows the old certificate", 180)
    assert evaluate(release, name, port, scheme, token, ca) == 42
    status = json.loads(release.venvd("status", name, "--json"))
    assert (status["state"], list_pods(release, name)) == ("running", before)
    release.venvd("stop", name)


def test_a_server_takes_only_clients_with_a_certificate(
    release: Release, folder: Path, client: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller shows that of `backends.clientTlsSecret` for the calls that it passes on."""
    directory = "/etc/venvd/backend-tls/guarded"
    files = {"tlsCert": "tls.crt", "tlsKey": "tls.key", "tlsClientCa": "ca.crt"}
    words = [word for name, file in files.items() for word in ("--server", f"{name}={directory}/{file}")]
    started = json.loads(release.venvd("start", "http", "--venv", "science", "--name", "guarded", *words, "--json"))

    ca, token = folder / "ca.pem", started["token"]
    with pytest.raises(Forbidden, match="certificate"):
        evaluate(release, "guarded", 5678, "https", token, ca)
    for name, file in zip(("VENVD_CLIENT_CERT", "VENVD_CLIENT_KEY"), client, strict=True):
        monkeypatch.setenv(name, str(file))
    assert evaluate(release, "guarded", 5678, "https", token, ca) == 42
    with release.forward("venvd", 8600) as url, closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        headers = {"Authorization": f"Bearer {release.read_token()}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/backends/guarded/exec", json.dumps({"code": "print(6 * 7)"}), headers)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["stdout"]) == (200, "42\n")
    release.venvd("stop", "guarded")


def evaluate(release: Release, name: str, port: int, scheme: str, token: str, ca: Path) -> object:
    """Call a backend over TLS."""
    with release.forward(name, port) as url:
        secure = url.replace("http://", f"{scheme}://")
        with venvd.connect(secure, token=token, ca=ca) as backend:
            return backend.eval("6 * 7")


def read_mounted(release: Release) -> str:
    words = ("exec", "deployment/venvd", "--", "sh", "-c", "cat /etc/venvd/backend-tls/web/tls.crt || true")
    return release.namespace.kubectl(*words)


def list_pods(release: Release, name: str) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in release.namespace.get("pods")
        if pod["metadata"]["labels"].get("dev.venvd.name", "").startswith(name)
    }
