"""Errors as problem details (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from venvd_contract.errors import InvalidRequest, NotFound, VenvdError
from venvd_http.asgi import Headers, Receive, Scope, Send, encode, send_whole
from venvd_http.auth import hold_back

PROBLEM = b"application/problem+json"

_RETRY = (b"retry-after", b"1")


@dataclass
class Problem:
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errorType: str | None = None  # noqa: N815 — names on the wire
    traceback: str | None = None
    exception: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    stateLost: bool | None = None  # noqa: N815


def render_problem(
    error: VenvdError, status: int | None = None, headers: Headers = (), challenge: bytes = b"Bearer"
) -> tuple[int, Headers, bytes]:
    """Render an error as an HTTP response: status, headers and body.

    `status` replaces the error's own, `headers` are added, and `challenge` is the `WWW-Authenticate` of a 401.
    """
    problem = error.problem()
    code = problem["status"] = status or error.http_status
    if code == 401:
        headers = (*headers, (b"www-authenticate", challenge))
    elif code in {429, 503}:
        headers = (*headers, _RETRY)
    return code, ((b"content-type", PROBLEM), *headers), encode(problem)


async def refuse(
    send: Send, error: VenvdError, status: int | None = None, headers: Headers = (), challenge: bytes = b"Bearer"
) -> None:
    """Send an error as problem details; the refusal of a wrong token is delayed."""
    await hold_back(error)
    await send_whole(send, *render_problem(error, status, headers, challenge))


class Refusal:
    """An ASGI application that answers with one error."""

    def __init__(
        self, error: VenvdError, status: int | None = None, headers: Headers = (), challenge: bytes = b"Bearer"
    ) -> None:
        self.error = error
        self.status = status or error.http_status
        self._headers = headers
        self._challenge = challenge

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await refuse(send, self.error, self.status, self._headers, self._challenge)


def unknown_path(path: str) -> Refusal:
    """Return the 404 of a path without a route."""
    return Refusal(NotFound(f"there is nothing at {path[:200]}; /docs lists all paths"))


def wrong_method(method: str, path: str, allowed: str) -> Refusal:
    """Return the 405 of a path that takes other methods."""
    error = InvalidRequest(f"{path[:200]} takes {allowed}, not {method}")
    return Refusal(error, 405, ((b"allow", allowed.encode()),))
