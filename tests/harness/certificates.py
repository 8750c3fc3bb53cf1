"""Certificates for tests of TLS, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"


def run_openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)


def make_authority(folder: Path, name: str = "ca") -> Path:
    """Make an authority in `folder`: `NAME.pem`, which is returned, and `NAME.key`."""
    made = folder / f"{name}.pem"
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    files = ("-keyout", f"{folder}/{name}.key", "-out", str(made))
    run_openssl("req", "-x509", *_KEY, *files, "-subj", f"/CN={name}", *usage)
    return made


def make_certificate(folder: Path, name: str, authority: str = "ca", names: str = _NAMES) -> tuple[Path, Path]:
    """Make a key and a certificate that an authority of `folder` signs; return `NAME.pem` and `NAME.key`."""
    cert, key, request = (folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
    (folder / "names").write_text(names)
    run_openssl("req", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
    signing = ("-CA", f"{folder}/{authority}.pem", "-CAkey", f"{folder}/{authority}.key", "-CAcreateserial")
    run_openssl("x509", "-req", "-in", str(request), *signing, "-extfile", f"{folder}/names", "-out", str(cert))
    key.chmod(0o644)  # a server in a container is another user
    return cert, key
