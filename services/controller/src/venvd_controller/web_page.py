"""The web page at `/`: files of this package, with strict headers. They contain no state, so they need no token."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from venvd_http.asgi import ASGIApp, Headers, Receive, Scope, Send, send_whole

_INDEX = "/"
_PREFIX = "/page/"
_PLACEHOLDER = b"HASH"
"""The placeholder in the index for the digest of all files. The digest is a part of their paths."""
_TYPES = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types output"
)
"""Output of user code is hostile, so scripts, styles and requests may come only from these files."""
_HEADERS: Headers = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_FOREVER = (b"cache-control", b"public, max-age=31536000, immutable")
_CHECK_FIRST = (b"cache-control", b"no-cache")


class WebPage:
    """ASGI middleware: answers `GET` and `HEAD` for the page and its files, and passes on all other requests."""

    def __init__(self, app: ASGIApp, answers: dict[str, tuple[Headers, bytes]]) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answers.get(scope["path"]) if scope["type"] == "http" else None
        if answer is None or scope["method"] not in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        headers, body = answer
        await send_whole(send, 200, headers, body)


def read_page() -> dict[str, tuple[Headers, bytes]]:
    """Read the page: headers and body of each path. The paths change with the content, so caches can keep files."""
    contents = {
        each.name: each.read_bytes() for each in (files("venvd_controller") / "page").iterdir() if each.is_file()
    }
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(b"%d %b %d %b" % (len(name), name.encode(), len(contents[name]), contents[name]))
    version = digest.hexdigest()[:16]
    index = contents.pop("index.html").replace(_PLACEHOLDER, version.encode())
    answers = {_INDEX: (_create_headers("index.html", _CHECK_FIRST), index)}
    for name, body in contents.items():
        answers[f"{_PREFIX}{version}/{name}"] = (_create_headers(name, _FOREVER), body)
    return answers


def _create_headers(name: str, caching: tuple[bytes, bytes]) -> Headers:
    return ((b"content-type", _TYPES[name.rpartition(".")[2]]), caching, *_HEADERS)
