"""The CA certificates and the client certificate of TLS connections, and explanations of failed handshakes."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path

from venvd.errors import InvalidRequest
from venvd_contract.watched_file import find_version

CA, CERT, KEY = "VENVD_CA", "VENVD_CLIENT_CERT", "VENVD_CLIENT_KEY"
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
"""OpenSSL's codes for a certificate that is self-signed, or that no known authority has signed."""

_CLIENT_CERTIFICATE_ALERTS = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR"}
    | {"SSLV3_ALERT_HANDSHAKE_FAILURE", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED"}
    | {"SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"}
)
"""The alerts of a server that asks for a client certificate, or refuses the one that it got."""


def create_tls_context(ca: str | None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return the TLS context that checks certificates of servers.

    `ca` is a PEM file with the authorities to trust. Default: the file of `VENVD_CA`, else the system's.
    `alpn` are the protocols to offer.

    Raises:
        InvalidRequest: a file is not usable.
    """
    paths = _choose_paths(ca)
    return _create_context(paths, tuple(find_version(path) for path in paths), alpn)


def read_pem_files(ca: str | None) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Return the content of the authorities and of this client's key and certificate, as gRPC takes them.

    Raises:
        InvalidRequest: a file is not usable.
    """
    trusted, cert, key = _choose_paths(ca)
    create_tls_context(ca)  # this checks the files: gRPC reports a broken one as a server that does not answer
    trusted = trusted or _find_system_ca_file()
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
        return f"the server at {url} does not speak TLS; try {plain}"
    if error.reason in _CLIENT_CERTIFICATE_ALERTS:
        return explain_refusal(url)
    return f"TLS with {url} failed: {error.reason or error}"


def explain_refusal(url: str) -> str:
    """Say what to do about a server that refuses the client's certificate, or asks for one."""
    shown = os.environ.get(CERT)
    if shown:
        return f"{url} does not accept the certificate {shown} of {CERT}: use one that the server trusts"
    return f"{url} asks for a certificate of the client: set {CERT} and {KEY} to the PEM files of certificate and key"


def _find_system_ca_file() -> str | None:
    """Find the system's CA certificates as one file. gRPC's own list lacks those that an organisation has added."""
    paths = ssl.get_default_verify_paths()
    candidates = (
        os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
        paths.cafile,
        paths.capath and f"{paths.capath}/ca-certificates.crt",
    )
    return next((path for path in candidates if path and Path(path).is_file()), None)


def _choose_paths(ca: str | None) -> tuple[str | None, str | None, str | None]:
    cert, key = os.environ.get(CERT) or None, os.environ.get(KEY) or None
    if bool(cert) != bool(key):
        raise InvalidRequest(f"{CERT} and {KEY} belong together: set both, or neither")
    return (os.fspath(ca) if ca else None) or os.environ.get(CA) or None, cert, key


@lru_cache(maxsize=16)
def _create_context(
    paths: tuple[str | None, str | None, str | None], _status: tuple[object, ...], alpn: tuple[str, ...]
) -> ssl.SSLContext:
    """Create a context. That takes 20 ms, so the cache keeps it until one of the files changes."""
    trusted, cert, key = paths
    files = f"{CA}: {trusted}" if trusted == os.environ.get(CA) else f"ca={trusted}"
    try:
        context = ssl.create_default_context(cafile=trusted)
        if alpn:
            context.set_alpn_protocols(alpn)
        if cert and key:
            files = f"{CERT} and {KEY}: {cert} with {key}"
            context.load_cert_chain(cert, key, _refuse_encrypted_key)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"{files} cannot be used: {reason}") from None
    return context


def _refuse_encrypted_key() -> str:
    """Take the place of OpenSSL's question for the pass phrase, at the terminal."""
    raise ValueError("the key is encrypted; use one without a pass phrase")
