"""Certificates of backends that serve TLS. The controller trusts only the certificate that venvd gave a server."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ssl
from pathlib import Path

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines.engine import LaunchRecord

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"
_EXPLAINED = {
    9: "it shows its certificate, which is not valid yet",
    10: "it shows its certificate, which has expired: renew it",
}
"""What to say about a failure, by OpenSSL's code of verification."""


def read_given(path: str) -> str:
    """Read the certificate that a server gets, for the record of its launch.

    Args:
        path: the file of `tlsCert`.

    Raises:
        InvalidRequest: the file cannot be used.
    """
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(
            f"tlsCert: the controller cannot read {path}: {reason}. It compares the certificate that the server shows "
            "with this file: let the user of the controller read it, at the same path"
        ) from None


def create_context(record: LaunchRecord) -> ssl.SSLContext:
    """Create the TLS context for the server of a launch.

    It accepts the certificates of `find_trusted`. It does not compare names: those in the certificate are for clients,
    and the controller uses another name.
    """
    return _create_context(find_trusted(record))


def create_showing_context(record: LaunchRecord, cert: Path, key: Path) -> ssl.SSLContext:
    """Create the TLS context of `create_context`, with a certificate for a server that asks the controller for one.

    Raises:
        Unavailable: the files of that certificate cannot be used.
    """
    context = _create_context.__wrapped__(find_trusted(record))
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        reason = error.strerror or getattr(error, "reason", None) or error
        raise Unavailable(
            f"VENVD_CLIENT_CERT and VENVD_CLIENT_KEY of the controller: {cert} and {key} cannot be used: {reason}"
        ) from None
    return context


_LATEST: dict[str, tuple[str, ...]] = {}
"""The last two certificates of each file, the newest first."""


def find_trusted(record: LaunchRecord) -> str:
    """Find the certificates that the server of a launch may show, PEM, the newest first.

    These are the certificate in its file, the one before, and the one at the start of the server. The one before still
    counts because a server takes a renewed file later than the controller sees it.
    """
    known: tuple[str, ...] = ()
    if record.certificate_file is not None:
        with contextlib.suppress(OSError, ValueError):  # the server keeps its certificate
            known = _remember(record.certificate_file, _read(record.certificate_file))
    return "\n".join(dict.fromkeys((*known, *([record.certificate] if record.certificate else []))))


def _remember(path: str, current: str) -> tuple[str, ...]:
    latest = _LATEST.get(path, ())
    if current not in latest[:1]:
        latest = _LATEST[path] = (current, *latest[:1])
    return latest


@functools.lru_cache(maxsize=256)
def _create_context(trusted: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust the server's own certificate, and no authority
    if trusted:
        context.load_verify_locations(cadata=trusted)
    return context


def describe_failure(record: LaunchRecord, error: ssl.SSLError) -> str:
    """Describe why a server failed to show its certificate, and which one the controller expected."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS with it failed: {error.reason or error}"
    if error.verify_code in _EXPLAINED:
        return f"{_EXPLAINED[error.verify_code]} ({record.certificate_file})"
    if record.certificate is None:
        return "it shows a certificate, and venvd gave it none"
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(record.certificate)).hexdigest()
    return (
        f"it shows another certificate than venvd gave it, which is that in {record.certificate_file} "
        f"(SHA-256 {digest}). Another program may listen there; if the file was replaced, restart the backend"
    )


def _read(path: str) -> str:
    """Read the first certificate of a file, the server's own.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file contains no certificate.
    """
    text = Path(path).read_text("ascii", errors="replace")
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < begin:
        raise ValueError("it holds no certificate in PEM form")
    pem = text[begin : end + len(_END)]
    try:
        _create_context(pem)
    except ssl.SSLError:
        raise ValueError("its first certificate is damaged") from None
    return pem
