"""Probes a backend over a port or a Unix socket."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from venvd_contract.errors import Unavailable
from venvd_contract.internal.audit import POSITION_HEADER
from venvd_controller import certificates
from venvd_engines.engine import LaunchRecord
from venvd_http.unix_connection import UnixConnection

_TIMEOUT = 2.0
_MAX_BYTES = 16 << 20
"""Bytes read of an answer."""


@dataclass(frozen=True)
class Readiness:
    """Whether a backend is ready, and why not.

    Attributes:
        answered: whether its server answered.
        audit_position: of the newest event that the server has for the audit log.
    """

    ready: bool
    answered: bool = True
    reason: str = ""
    audit_position: str | None = None


class _WrongCertificate(Unavailable):
    """A server answers, and shows no certificate that it should have."""


def fetch(record: LaunchRecord, path: str, token: str | None = None, timeout: float = _TIMEOUT) -> tuple[int, bytes]:
    """Send a GET to the server of a launch, and return status and body.

    Raises:
        Unavailable: there is no answer, or the server shows another certificate than it was given.
    """
    status, body, _ = _fetch(record, path, token, timeout)
    return status, body


def _fetch(
    record: LaunchRecord, path: str, token: str | None = None, timeout: float = _TIMEOUT
) -> tuple[int, bytes, http.client.HTTPMessage]:
    url = record.probe_url
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "unix":
        connection = UnixConnection(Path(parts.path), timeout)
    elif parts.scheme == "https":
        host, context = parts.hostname or "", certificates.create_context(record)
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read(_MAX_BYTES), response.headers
    except ssl.SSLError as error:
        raise _WrongCertificate(f"{url}: {certificates.describe_failure(record, error)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()


def probe_readiness(record: LaunchRecord) -> Readiness:
    """Ask a backend's server whether it is ready."""
    try:
        status, body, headers = _fetch(record, "/readyz")
    except _WrongCertificate as error:
        return Readiness(ready=False, reason=error.message)
    except Unavailable as error:
        return Readiness(ready=False, answered=False, reason=error.message)
    position = headers.get(POSITION_HEADER)
    if status == http.client.OK:
        return Readiness(ready=True, audit_position=position)
    try:
        problem = json.loads(body)
        reason = str(problem.get("detail") or problem)
    except (ValueError, AttributeError):
        reason = f"/readyz answered {status}"
    return Readiness(ready=False, reason=reason, audit_position=position)
