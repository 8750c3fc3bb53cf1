"""Probes and metrics as an ASGI application."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from venvd_http import probes
from venvd_http.auth import TokenGuard


class Backend:
    """Stands for the backend whose probes these are."""

    def __init__(self) -> None:
        self.failing: dict[str, str] = {}
        self.refreshed = False

    def ready(self) -> dict[str, str]:
        return self.failing

    async def refresh(self) -> None:
        self.refreshed = True

    def metrics(self) -> bytes:
        assert self.refreshed
        return b"venvd_ready 1.0\n"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


Answer = tuple[int, dict[bytes, bytes], bytes]


def ask(app: Any, path: str, token: str | None = None, method: str = "GET") -> Answer:
    """One request to an ASGI application, without a server."""
    headers = [(b"authorization", b"Bearer " + token.encode())] if token else []
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(app({"type": "http", "path": path, "method": method, "headers": headers}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_probes_are_open_and_metrics_are_not() -> None:
    """Health, liveness and readiness need no token; metrics need one, and either will do."""
    app = probes.create_app(Backend(), TokenGuard(digest("secret"), digest("scrape")))
    for path in ("/health", "/livez", "/readyz"):
        status, _, body = ask(app, path)
        assert (status, json.loads(body)["status"]) == (200, "ok")
    status, headers, body = ask(app, "/metrics")
    assert status == 401
    assert headers[b"www-authenticate"] == b"Bearer"
    assert json.loads(body)["code"] == "unauthenticated"
    for token in ("secret", "scrape"):
        status, _, body = ask(app, "/metrics", token)
        assert status == 200
        assert b"venvd_ready 1.0" in body
    assert ask(app, "/else")[0] == 404
    status, headers, _ = ask(app, "/livez", method="POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")


def test_readiness_says_what_is_missing() -> None:
    """`/readyz` is 503 and names the check that fails, while `/livez` stays green."""
    backend = Backend()
    backend.failing = {"session": "the worker host is not there yet"}
    app = probes.create_app(backend, TokenGuard(""))
    status, _, body = ask(app, "/readyz")
    assert status == 503
    assert json.loads(body)["checks"] == backend.failing
    assert ask(app, "/livez")[0] == 200
