"""TLS of backends: Secrets that the chart names, and their renewal."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.certificates import make_authority, make_certificate
from harness.release import Release, prepare_release
from harness.waiting import wait_until

import venvd

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
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A controller that was told of the Secret before that was made."""
    with prepare_release("tls", tmp_path_factory.mktemp("tls")) as prepared:
        prepared.change("install", "--set", "backends.tlsSecrets={web}")
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

    def evaluate() -> object:
        with release.forward(name, port) as url:
            secure = url.replace("http://", f"{scheme}://")
            with venvd.connect(secure, token=started["token"], ca=folder / "ca.pem") as backend:
                return backend.eval("6 * 7")

    assert evaluate() == 42
    second = put_secret(release, folder, f"second-{kind}-{replicas}")
    wait_until(lambda: read_shown(release, name, port) == second, "the server shows the old certificate", 180)
    assert evaluate() == 42
    status = json.loads(release.venvd("status", name, "--json"))
    assert (status["state"], list_pods(release, name)) == ("running", before)
    release.venvd("stop", name)


def read_mounted(release: Release) -> str:
    words = ("exec", "deployment/venvd", "--", "sh", "-c", "cat /etc/venvd/backend-tls/web/tls.crt || true")
    return release.namespace.kubectl(*words)


def list_pods(release: Release, name: str) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in release.namespace.get("pods")
        if pod["metadata"]["labels"].get("dev.venvd.name", "").startswith(name)
    }
