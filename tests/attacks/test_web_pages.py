"""Web pages in a user's browser that reach for a backend without a token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.attacks import Target, started
from harness.stack import Stack

PATHS = {
    "http": [
        "GET /health",
        "GET /metrics",
        "GET /docs",
        "POST /api/eval",
        "POST /v1/sessions",
        "GET /api/array?handleId=x",
    ],
    "rpc": ["GET /health", "GET /metrics", "POST /rpc/PythonService/Evaluate"],
}


@pytest.fixture(scope="module", params=["http", "rpc"])
def unguarded(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Target]:
    """A backend without a token, which one web page may ask."""
    settings = {
        "VENVD_NO_TOKEN": "1",
        "VENVD_TOKEN_SHA256": "",
        "VENVD_ALLOWED_HOSTS": "app.example.com",
        "VENVD_ALLOWED_ORIGINS": "https://app.example.com",
    }
    with started(stack, request.param, **settings) as target:
        yield target


def ask(target: Target, request: str, host: str, origin: str = "") -> int:
    """The status of a request that a page sends."""
    field = "Expression" if "/rpc/" in request else "expression"
    body = f'{{"{field}": "1"}}'.encode() if request.startswith("POST") else b""
    lines = [f"{request} HTTP/1.1", f"Host: {host}", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"Origin: {origin}"] if origin else []
    with target.probes.open() as raw:
        raw.send("\r\n".join([*lines, "", ""]).encode() + body)
        return int(raw.rest().split(b" ", 2)[1])


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example"])
def test_a_name_that_points_here(unguarded: Target, host: str) -> None:
    """A page tries to read a backend under the name of its own site (DNS rebinding): every path is refused."""
    for path in PATHS[unguarded.kind]:
        assert ask(unguarded, path, host) == 403
        assert ask(unguarded, path, host, f"http://{host}") == 403


@pytest.mark.parametrize("origin", ["http://attacker.example", "https://app.example.com.attacker.example", "null"])
def test_a_foreign_page(unguarded: Target, origin: str) -> None:
    """A page of another site tries to run code on localhost: it is refused on every path."""
    for path in PATHS[unguarded.kind]:
        assert ask(unguarded, path, "localhost:5678", origin) == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:5678", ""),
        ("127.0.0.1", "http://127.0.0.1"),
        ("app.example.com", "https://app.example.com"),
        ("conformance-{kind}", ""),
    ],
)
def test_names_and_pages_that_are_allowed(unguarded: Target, host: str, origin: str) -> None:
    """A client tries its names and the allowed ones: they are served."""
    assert ask(unguarded, "GET /health", host.format(kind=unguarded.kind), origin) == 200
    path = "/api/eval" if unguarded.kind == "http" else "/rpc/PythonService/Evaluate"
    assert ask(unguarded, f"POST {path}", host.format(kind=unguarded.kind), origin) == 200


def test_a_foreign_page_with_a_token(http_door: tuple[Target, object]) -> None:
    """A page of another site tries a backend with a token: its origin is refused before its token is looked at."""
    target, _ = http_door
    assert ask(target, "GET /health", "localhost", "http://attacker.example") == 403
    assert ask(target, "GET /health", "whatever.example") == 200
