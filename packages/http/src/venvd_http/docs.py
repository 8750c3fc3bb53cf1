"""`/docs` and `/openapi.json`: the schema of a service, and Swagger UI, which loads nothing from other hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from html import escape
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from venvd_http.asgi import JSON, Headers, Receive, Scope, Send, encode, send_whole
from venvd_http.problems import unknown_path, wrong_method

SCHEMA_PATH = "/openapi.json"
PAGE_PATH = "/docs"
_START_PATH = "/docs/start.js"
_FILES = {
    "/docs/swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": b"text/css; charset=utf-8",
    "/docs/favicon-32x32.png": b"image/png",
}
"""Files of the distribution `fastapi-swagger`, which contains only Swagger UI and a page for it."""
PATHS = frozenset({SCHEMA_PATH, PAGE_PATH, _START_PATH, *_FILES})
METHODS = ("GET", "HEAD")

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS: Headers = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_KEPT: Headers = ((b"cache-control", b"max-age=3600"),)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="schema"></div>
<noscript>This page needs JavaScript. <a href="openapi.json">The schema</a> is JSON.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#schema",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""


class Docs:
    """An ASGI application that answers the paths `PATHS`.

    The first request makes the schema, in a thread, because that takes a second.
    """

    def __init__(self, title: str, create_schema: Callable[[], Mapping[str, Any]]) -> None:
        self._title = title
        self._create_schema = create_schema
        self._contents: dict[str, bytes] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path not in PATHS:
            await unknown_path(path)(scope, receive, send)
        elif method not in METHODS:
            await wrong_method(method, path, ", ".join(METHODS))(scope, receive, send)
        elif path == SCHEMA_PATH:
            await send_whole(send, 200, ((b"content-type", JSON), *_GUARDS), await self._get(path))
        elif path == PAGE_PATH:
            headers = ((b"content-type", b"text/html; charset=utf-8"), *_GUARDS)
            await send_whole(send, 200, headers, _PAGE.format(title=escape(self._title)).encode())
        elif path == _START_PATH:
            await send_whole(send, 200, ((b"content-type", b"text/javascript"), *_GUARDS, *_KEPT), _START)
        else:
            await send_whole(send, 200, ((b"content-type", _FILES[path]), *_GUARDS, *_KEPT), await self._get(path))

    async def _get(self, path: str) -> bytes:
        async with self._lock:
            if path not in self._contents:
                self._contents[path] = await asyncio.to_thread(self._read, path)
        return self._contents[path]

    def _read(self, path: str) -> bytes:
        if path == SCHEMA_PATH:
            return encode(self._create_schema())
        place = distribution("fastapi-swagger").locate_file("fastapi_swagger/resources")
        return Path(str(place), path.rpartition("/")[2]).read_bytes()
