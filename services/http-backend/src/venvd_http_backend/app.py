"""The ASGI application: every request that does not take the fast path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from venvd_core import float_arrays
from venvd_core.backend import Backend
from venvd_http import docs, probes
from venvd_http.asgi import ASGIApp, Receive, Scope, Send
from venvd_http.auth import TokenGuard
from venvd_http.bodies import Body
from venvd_http.connection import accept
from venvd_http.heads import Head
from venvd_http.problems import unknown_path, wrong_method
from venvd_http.serving import serve_request
from venvd_http_backend import arrays, query
from venvd_http_backend.commands import Commands
from venvd_http_backend.events import serve_events
from venvd_http_backend.files import Files
from venvd_http_backend.request import HttpRequest
from venvd_http_backend.routes import find_route

_TITLE = "venvd HTTP backend"


class App:
    """Answers each request in one of two ways: bodies and events as streams, everything else as one command.

    Every error becomes problem details.
    """

    def __init__(
        self,
        backend: Backend,
        guard: TokenGuard,
        commands: Commands,
        old_paths: Mapping[str, str],
        *,
        open_docs: bool,
    ) -> None:
        self._commands = commands
        self._old_paths = old_paths
        self._docs = docs.Docs(_TITLE, _create_schema)
        self._open: dict[str, ASGIApp] = dict.fromkeys(docs.PATHS, self._docs) if open_docs else {}
        self._open |= dict.fromkeys(probes.PATHS, probes.create_app(backend, guard))
        array_bodies, files = arrays.Arrays(commands), Files(commands)
        self._streams = {
            "array.get": array_bodies.serve_get,
            "array.put": array_bodies.serve_put,
            "file.get": files.serve_get,
            "file.put": files.serve_put,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        open_app = self._open.get(scope["path"])
        if open_app is not None:
            await open_app(scope, receive, send)
            return

        async def serve(head: Head, body: Body, send: Send) -> None:
            accept(scope, self._commands.admit(head))
            await self._serve(HttpRequest(scope, head, body, receive, send))

        await serve_request(scope, receive, send, self._commands.stall_timeout, serve)

    async def _serve(self, request: HttpRequest) -> None:
        scope = request.scope
        path, method = scope["path"], scope["method"]
        if path in docs.PATHS:
            await self._docs(scope, request.receive, request.send)
            return
        route = find_route(self._old_paths.get(path, path))
        if route is None:
            await unknown_path(path)(scope, request.receive, request.send)
            return
        methods, parameters = route
        command = methods.get(method)
        if command is None:
            allowed = ", ".join(name for name in methods if name != "HEAD")
            await wrong_method(method, path, allowed)(scope, request.receive, request.send)
            return
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        payload = parameters if path == arrays.PATH else {**query.read_fields(command, given), **parameters}
        if command.startswith("file."):
            request.head.session = payload.pop("id")
            if "path" in parameters:
                payload |= request.file_path()
        stream = self._streams.get(command)
        if stream is not None:
            await stream(request, payload)
        elif command in float_arrays.COMMANDS:
            await self._commands.serve_float_array(command, request)
        elif command == "exec" and request.head.wants_events:
            await serve_events(self._commands, request)
        else:
            await self._commands.serve(command, request, payload)


def _create_schema() -> Mapping[str, Any]:
    from venvd_http_backend.schema import create_schema  # noqa: PLC0415 — FastAPI takes half of a server's start

    return create_schema()
