"""`/health`, `/livez`, `/readyz` and `/metrics` as a bare ASGI application, for servers without HTTP of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from venvd_contract.errors import InvalidRequest, NotFound, VenvdError
from venvd_core.backend import Backend

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
PROBLEM = b"application/problem+json"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"
PATHS = ("/health", "/livez", "/readyz", "/metrics")

_CHALLENGE = (b"www-authenticate", b"Bearer")
_RETRY = (b"retry-after", b"1")


async def respond(send: Send, status: int, body: bytes, content_type: bytes = JSON) -> None:
    """Send one whole response."""
    head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


Headers = tuple[tuple[bytes, bytes], ...]


def problem_of(error: VenvdError, status: int | None = None, headers: Headers = ()) -> tuple[int, Headers, bytes]:
    """An error as an HTTP response: status, headers and body; `status` where HTTP has a better one than its own."""
    problem = error.problem()
    found = problem["status"] = status or error.http_status
    if found == 401:
        headers = (*headers, _CHALLENGE)
    elif found in {429, 503}:
        headers = (*headers, _RETRY)
    return found, ((b"content-type", PROBLEM), *headers), msgspec.json.encode(problem)


async def refuse(send: Send, error: VenvdError, status: int | None = None, headers: Headers = ()) -> None:
    """Send an error as problem details."""
    found, lines, body = problem_of(error, status, headers)
    head = [*lines, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": found, "headers": head})
    await send({"type": "http.response.body", "body": body})


def bearer(scope: Scope) -> str | None:
    """The bearer token of a request, or None."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip(), "latin-1")
    return None


async def _readiness(backend: Backend, send: Send) -> None:
    wrong = backend.ready()
    body = {"status": "unavailable" if wrong else "ok", "checks": wrong}
    await respond(send, 503 if wrong else 200, msgspec.json.encode(body))


async def _metrics(backend: Backend, scope: Scope, send: Send) -> None:
    backend.authorise(bearer(scope), "metrics")
    await backend.refresh()
    await respond(send, 200, backend.metrics(), METRICS)


def app(backend: Backend) -> ASGIApp:
    """The application; errors are problem details."""

    async def answer(scope: Scope, send: Send) -> None:
        path = scope["path"]
        if path not in PATHS:
            raise NotFound(f"no such path: {path[:200]}")
        if scope["method"] not in {"GET", "HEAD"}:
            raise InvalidRequest(f"{path} takes GET, not {scope['method']}")
        if path == "/metrics":
            await _metrics(backend, scope, send)
        elif path == "/readyz":
            await _readiness(backend, send)
        else:
            await respond(send, 200, b'{"status":"ok"}')

    async def serve(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await answer(scope, send)
        except InvalidRequest as error:
            await refuse(send, error, 405, ((b"allow", b"GET, HEAD"),))
        except VenvdError as error:
            await refuse(send, error)

    return serve
