"""Certificates: which authorities a client trusts, what it shows of itself, and why a handshake failed."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path

from venvd.errors import InvalidRequest

CA, CERT, KEY = "VENVD_CA", "VENVD_CLIENT_CERT", "VENVD_CLIENT_KEY"
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
"""What OpenSSL calls a certificate that no known authority has signed, or that signs itself."""


def create_tls_context(ca: str | None) -> ssl.SSLContext:
    """Return what checks certificates of servers.

    `ca` is a PEM file with the authorities to trust. Without it that is the file of `VENVD_CA`, else the system's.

    Raises:
        InvalidRequest: a file cannot be used.
    """
    paths = _choose_paths(ca)
    return _create_context(paths, tuple(_read_status(path) for path in paths))


def read_pem_files(ca: str | None) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Return the content of the authorities, and of this client's key and certificate, as gRPC takes them.

    Raises:
        InvalidRequest: a file cannot be used.
    """
    trusted, cert, key = _choose_paths(ca)
    create_tls_context(ca)  # gRPC says of a broken file only that nothing answers
    return tuple(Path(path).read_bytes() if path else None for path in (trusted, key, cert))  # type: ignore[return-value]


def explain_failure(url: str, error: ssl.SSLError) -> str:
    """Say in one sentence why a handshake failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return (
                f"the certificate of {url} is signed by an authority that is not known here: set {CA} to a PEM file "
                "with the certificate of the authority, or pass it as ca="
            )
        return f"the certificate of {url} is not valid: {error.verify_message}"
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}:
        plain = url.replace("s://", "://", 1)
        return f"what answers at {url} does not speak TLS: is it {plain}?"
    return f"TLS with {url} failed: {error.reason or error}"


def _choose_paths(ca: str | None) -> tuple[str | None, str | None, str | None]:
    cert, key = os.environ.get(CERT) or None, os.environ.get(KEY) or None
    if bool(cert) != bool(key):
        raise InvalidRequest(f"{CERT} and {KEY} need each other")
    return (os.fspath(ca) if ca else None) or os.environ.get(CA) or None, cert, key


@lru_cache(maxsize=16)
def _create_context(paths: tuple[str | None, str | None, str | None], _status: tuple[object, ...]) -> ssl.SSLContext:
    """Create the context once for all connections, as long as the files do not change: that takes 20 ms."""
    trusted, cert, key = paths
    what, path = CA, trusted
    try:
        context = ssl.create_default_context(cafile=trusted)
        if cert and key:
            what, path = f"{CERT} and {KEY}", cert
            context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{what}: {path} cannot be used: {reason}") from None
    return context


def _read_status(path: str | None) -> object:
    try:
        status = Path(path).stat() if path else None
    except OSError:
        return None
    return status and (status.st_ino, status.st_mtime_ns, status.st_size)
