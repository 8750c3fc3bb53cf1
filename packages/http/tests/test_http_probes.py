"""Probes and metrics as an ASGI application."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest

from venvd_contract.errors import VenvdError
from venvd_contract.internal.audit import ServerEvent, ServerEvents
from venvd_contract.internal.messages import WallsReport
from venvd_http import probes
from venvd_http.auth import Key, TokenGuard


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

    def walls(self) -> WallsReport:
        return WallsReport(7, True, False, "6.12.9")

    @property
    def audit(self) -> Backend:
        return self

    position = "life-5"

    def read(self, after: str) -> ServerEvents:
        return ServerEvents(self.position, 0, [ServerEvent("now", "session.create", session=after)])


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

    path, _, query = path.partition("?")
    scope = {"type": "http", "path": path, "method": method, "headers": headers, "query_string": query.encode()}
    asyncio.run(app(scope, receive, send))
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
    backend.failing = {"session": "the worker host has not joined yet"}
    app = probes.create_app(backend, TokenGuard(""))
    status, _, body = ask(app, "/readyz")
    assert status == 503
    assert json.loads(body)["checks"] == backend.failing
    assert ask(app, "/livez")[0] == 200


def test_the_controller_alone_reads_the_walls() -> None:
    """The walls around user code are for the token that the controller derives."""
    app = probes.create_app(Backend(), TokenGuard(digest("use"), digest("derived")))
    status, _, body = ask(app, "/walls", "derived")
    assert status == 200
    assert json.loads(body) == {
        "landlock": 7,
        "callFilter": True,
        "networkSockets": False,
        "kernel": "6.12.9",
        "namespaces": False,
    }
    assert {token: ask(app, "/walls", token)[0] for token in ("use", None)} == {"use": 403, None: 401}


def test_the_controller_alone_reads_the_events() -> None:
    """Readiness names the newest event to all; the events are for the token that the controller derives."""
    guard = TokenGuard(digest("use"), digest("derived"))
    guard.replace_keys([Key("scraper", hashlib.sha256(b"scrape").digest(), "metrics")])
    app = probes.create_app(Backend(), guard)
    assert ask(app, "/readyz")[1][b"x-venvd-audit"] == b"life-5"
    status, _, body = ask(app, "/audit?after=life-4", "derived")
    assert status == 200
    assert json.loads(body)["events"][0]["session"] == "life-4"
    statuses = {token: ask(app, "/audit", token)[0] for token in ("use", "scrape", "wrong", None)}
    assert statuses == {"use": 403, "scrape": 403, "wrong": 401, None: 401}
    without_token = probes.create_app(Backend(), TokenGuard(""))
    assert [ask(without_token, "/audit", token)[0] for token in (None, "any")] == [401, 401]


def test_a_refusal_is_reported_with_its_peer() -> None:
    """The guard reports each refused token with the peer that sent it, and the name of its key if it knows it."""
    refused: list[tuple[str | None, str, str]] = []
    guard = TokenGuard(digest("use"), digest("derived"))
    guard.on_refusal = lambda key, peer, error: refused.append((key, peer, error.code))
    guard.replace_keys([Key("old", hashlib.sha256(b"old").digest(), expires_at=1.0)])
    for token in (None, "wrong", "old", "derived"):
        with pytest.raises(VenvdError):
            guard.admit(token, "192.0.2.1")
    unknown = (None, "192.0.2.1", "unauthenticated")
    assert refused == [unknown, unknown, ("old", *unknown[1:]), ("metrics", "192.0.2.1", "forbidden")]
