"""`/health`, `/livez`, `/readyz` and `/metrics` of a backend as a bare ASGI application."""

from __future__ import annotations

from typing import Protocol

from venvd_contract.errors import NotFound, VenvdError
from venvd_http.asgi import ASGIApp, Receive, Scope, Send, encode, respond
from venvd_http.auth import METRICS, TokenGuard, read_token
from venvd_http.problems import refuse, wrong_method

PATHS = ("/health", "/livez", "/readyz", "/metrics")
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Probed(Protocol):
    """What the probes ask: `venvd_core.backend.Backend` is one."""

    def ready(self) -> dict[str, str]: ...
    async def refresh(self) -> None: ...
    def metrics(self) -> bytes: ...


def create_app(backend: Probed, guard: TokenGuard) -> ASGIApp:
    """The application. Errors are problem details; metrics take a token."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        try:
            if path not in PATHS:
                raise NotFound(f"no such path: {path[:200]}")
            if method not in {"GET", "HEAD"}:
                await wrong_method(method, path, "GET, HEAD")(scope, receive, send)
            elif path == "/metrics":
                guard.check(read_token(scope), METRICS)
                await backend.refresh()
                await respond(send, 200, backend.metrics(), METRICS_TYPE)
            elif path == "/readyz":
                failing = backend.ready()
                body = {"status": "unavailable" if failing else "ok", "checks": failing}
                await respond(send, 503 if failing else 200, encode(body))
            else:
                await respond(send, 200, b'{"status":"ok"}')
        except VenvdError as error:
            await refuse(send, error)

    return serve
