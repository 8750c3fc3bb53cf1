"""Probes a backend over a port or a Unix socket."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from venvd_contract.errors import Unavailable
from venvd_contract.internal.audit import POSITION_HEADER
from venvd_controller import certificates
from venvd_engines.engine import LaunchRecord

_TIMEOUT = 2.0
_MAX_BYTES = 16 << 20
"""How many bytes of an answer are read."""
_MAX_HEAD = 64 << 10
_PART = 64 << 10
_STATUS = re.compile(r"HTTP/1\.[01] ([1-5]\d\d)\b")


@dataclass(frozen=True)
class Readiness:
    """Whether a backend is ready, and why not.

    Attributes:
        answered: whether its server answered.
        audit_position: the position of the newest event that the server has for the audit log.
    """

    ready: bool
    answered: bool = True
    reason: str = ""
    audit_position: str | None = None


class _WrongCertificate(Unavailable):
    """A server answers, but does not show a certificate that it should have."""


def fetch(record: LaunchRecord, path: str, token: str | None = None, timeout: float = _TIMEOUT) -> tuple[int, bytes]:
    """Send a GET to the server of a launch, and return status and body.

    Raises:
        Unavailable: there is no answer, or the server does not show the certificate that it was given.
    """
    status, body, _ = _fetch(record, path, token, timeout)
    return status, body


def _fetch(
    record: LaunchRecord, path: str, token: str | None = None, timeout: float = _TIMEOUT
) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a GET, and return status, body and headers, by their names in lower case.

    An idle controller does little else, and `http.client` takes three times as long.
    """
    url = record.probe_url
    parts = urlsplit(url)
    context = certificates.create_context(record) if parts.scheme == "https" else None
    lines = [f"GET {path} HTTP/1.0", f"Host: {parts.netloc or 'localhost'}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    try:
        with _connect(parts, context, timeout) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            return _read_answer(connection)
    except ssl.SSLError as error:
        raise _WrongCertificate(f"{url}: {certificates.describe_failure(record, error)}") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url} does not answer: {error or type(error).__name__}") from None


def _connect(parts: SplitResult, context: ssl.SSLContext | None, timeout: float) -> socket.socket:
    """Connect to the address of probes, over TLS if there is a context.

    Raises:
        OSError: nothing listens there, or its certificate is wrong.
    """
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(parts.path)
        except BaseException:
            connection.close()
            raise
        return connection
    port = parts.port or (http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT)
    connection = socket.create_connection((parts.hostname or "", port), timeout)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection, server_hostname=parts.hostname)
    except BaseException:
        connection.close()
        raise


def _read_answer(connection: socket.socket) -> tuple[int, bytes, Mapping[str, str]]:
    """Read an HTTP answer to its end.

    Raises:
        OSError: the answer does not come.
        ValueError: the answer is not complete, or too large.
    """
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        _receive(connection, received, _MAX_HEAD)
    status_line, *fields = received[:end].decode("latin-1").split("\r\n")
    status = _STATUS.match(status_line)
    if status is None:
        raise ValueError("it speaks no HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    body = received[end + 4 :]
    length = headers.get("content-length", "")
    if not length.isdecimal():
        raise ValueError("its answer has no length")
    size = int(length)
    while len(body) < size:
        _receive(connection, body, _MAX_BYTES)
    return int(status[1]), bytes(body[:size]), headers


def _receive(connection: socket.socket, received: bytearray, most: int) -> None:
    if len(received) > most:
        raise ValueError("its answer is too large")
    part = connection.recv(_PART)
    if not part:
        raise ValueError("it closed the connection")
    received += part


def probe_readiness(record: LaunchRecord) -> Readiness:
    """Ask a backend's server whether it is ready."""
    try:
        status, body, headers = _fetch(record, "/readyz")
    except _WrongCertificate as error:
        return Readiness(ready=False, reason=error.message)
    except Unavailable as error:
        return Readiness(ready=False, answered=False, reason=error.message)
    position = headers.get(POSITION_HEADER.lower())
    if status == http.client.OK:
        return Readiness(ready=True, audit_position=position)
    try:
        problem = json.loads(body)
        reason = str(problem.get("detail") or problem)
    except (ValueError, AttributeError):
        reason = f"/readyz answered {status}"
    return Readiness(ready=False, reason=reason, audit_position=position)
