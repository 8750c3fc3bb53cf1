"""The probes of a backend and the requests of its controller, as a bare ASGI application."""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol
from urllib.parse import parse_qs

from venvd_contract.errors import NotFound, VenvdError
from venvd_contract.internal import audit
from venvd_contract.internal.messages import LOAD_PATH, WALLS_PATH, LoadReport, WallsReport
from venvd_http.asgi import JSON, ASGIApp, Receive, Scope, Send, describe_peer, encode, respond, send_whole
from venvd_http.auth import METRICS, TokenGuard, read_token
from venvd_http.connection import accept
from venvd_http.problems import refuse, wrong_method

PATHS = ("/health", "/livez", "/readyz", "/metrics", WALLS_PATH, LOAD_PATH, audit.PATH)
_POSITION = audit.POSITION_HEADER.lower().encode()
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class AuditEvents(Protocol):
    """Events that the controller fetches."""

    @property
    def position(self) -> str: ...
    def read(self, after: str) -> audit.ServerEvents: ...


class Probed(Protocol):
    """The source of the probes' answers, such as `venvd_core.backend.Backend`."""

    def ready(self) -> dict[str, str]: ...
    def walls(self) -> WallsReport: ...
    def load(self) -> LoadReport: ...
    async def refresh(self) -> None: ...
    def metrics(self) -> bytes: ...

    @property
    def audit(self) -> AuditEvents: ...


def _read_walls(backend: Probed, _: Scope) -> object:
    return asdict(backend.walls())


def _read_load(backend: Probed, _: Scope) -> object:
    return asdict(backend.load())


def _read_events(backend: Probed, scope: Scope) -> object:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    return backend.audit.read(query.get("after", [""])[0])


_OF_CONTROLLER = {WALLS_PATH: _read_walls, LOAD_PATH: _read_load, audit.PATH: _read_events}


def create_app(backend: Probed, guard: TokenGuard) -> ASGIApp:
    """Create the application. Errors are problem details; metrics, walls, load and events need a token."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        try:
            if guard.open:
                accept(scope)
            if path not in PATHS:
                raise NotFound(f"no such path: {path[:200]}")
            if method not in {"GET", "HEAD"}:
                await wrong_method(method, path, "GET, HEAD")(scope, receive, send)
            elif path == "/metrics":
                accept(scope, guard.check(read_token(scope), METRICS, describe_peer(scope)))
                await backend.refresh()
                await respond(send, 200, backend.metrics(), METRICS_TYPE)
            elif path == "/readyz":
                failing = backend.ready()
                body = {"status": "unavailable" if failing else "ok", "checks": failing}
                headers = ((b"content-type", JSON), (_POSITION, backend.audit.position.encode()))
                await send_whole(send, 503 if failing else 200, headers, encode(body))
            elif path in _OF_CONTROLLER:
                guard.check_controller(read_token(scope), describe_peer(scope))
                await respond(send, 200, encode(_OF_CONTROLLER[path](backend, scope)))
            else:
                await respond(send, 200, b'{"status":"ok"}')
        except VenvdError as error:
            await refuse(send, error)

    return serve
