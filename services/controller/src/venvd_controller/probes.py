"""Probes a backend over a port or a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from venvd_contract.errors import Unavailable

_TIMEOUT = 2.0
_MAX_BYTES = 16 << 20
"""Bytes read of an answer."""


@dataclass(frozen=True)
class Readiness:
    """Whether a backend is ready, and why not; `answered` is false if its server did not answer."""

    ready: bool
    answered: bool = True
    reason: str = ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch(url: str, path: str, token: str | None = None, timeout: float = _TIMEOUT) -> tuple[int, bytes]:
    """Send a GET to `http://…` or `unix:///…`, and return status and body.

    Raises:
        Unavailable: there is no answer.
    """
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "unix":
        connection = _UnixConnection(parts.path, timeout)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()


def probe_readiness(url: str) -> Readiness:
    """Ask a backend's server whether it is ready."""
    try:
        status, body = fetch(url, "/readyz")
    except Unavailable as error:
        return Readiness(ready=False, answered=False, reason=error.message)
    if status == http.client.OK:
        return Readiness(ready=True)
    try:
        problem = json.loads(body)
        return Readiness(ready=False, reason=str(problem.get("detail") or problem))
    except (ValueError, AttributeError):
        return Readiness(ready=False, reason=f"/readyz answered {status}")
