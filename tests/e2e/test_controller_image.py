"""The image of the controller: what its build needs beside the sources is in no layer of it."""

from __future__ import annotations

import gzip
import io
import os
import secrets
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.stack import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.long]

BUILD_TIMEOUT = 580
_GZIP = b"\x1f\x8b"


@pytest.fixture(scope="module")
def base() -> str:
    """The base image of this machine, as scripts/compose-env finds it."""
    subprocess.run([ROOT / "scripts/compose-env"], check=True)
    settings = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if "=" in line)
    return settings.get("VENVD_CONTROLLER_BASE", "python:3.13-slim")


def read_blobs(image: str) -> list[bytes]:
    """Return the layers and the configuration of an image, unpacked."""
    saved = subprocess.run(["docker", "save", image], capture_output=True, check=True, timeout=BUILD_TIMEOUT).stdout
    blobs = []
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                data = file.read()
                blobs.append(gzip.decompress(data) if data.startswith(_GZIP) else data)
    return blobs


@pytest.mark.needs("docker")
def test_no_layer_of_the_build_has_a_secret(base: str, tmp_path: Path) -> None:
    """The stage that installs packages is built with marked certificates and a marked index, and has neither mark."""
    mark = secrets.token_hex(16)
    bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    (tmp_path / "ca").write_bytes(bundle.read_bytes() + f"\n# {mark}\n".encode())
    parts = urlsplit(os.environ.get("VENVD_INDEX_URL") or find_index())
    (tmp_path / "index").write_text(parts._replace(netloc=f"user:{mark}@{parts.netloc.rpartition('@')[2]}").geturl())
    image = f"venvd-test-build:{secrets.token_hex(4)}"
    given = [f"--secret=id={name},src={tmp_path / name}" for name in ("ca", "index")]
    command = [
        "docker",
        "build",
        "--progress=plain",
        "--target=build",
        "--no-cache-filter=build",
        "--tag",
        image,
        *given,
    ]
    command += [f"--build-arg=BASE_IMAGE={base}", "--file", "services/controller/Dockerfile", "."]
    try:
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False)
        assert built.returncode == 0, built.stderr[-2000:]
        assert mark not in built.stdout + built.stderr
        blobs = read_blobs(image)
        assert any(b"/tools/bin/uv" in blob or b"build/tools/" in blob for blob in blobs)
        assert not [len(blob) for blob in blobs if mark.encode() in blob]
    finally:
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)


def find_index() -> str:
    """Return the package index that pip uses without settings."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
