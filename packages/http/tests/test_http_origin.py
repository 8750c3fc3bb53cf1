"""Names under which a server may be addressed, and pages that may send requests."""

from __future__ import annotations

import pytest

from venvd_contract.errors import Forbidden, InvalidRequest
from venvd_http.origin import BrowserGuard, find, parse_host_pattern, parse_origin_pattern

OPEN = BrowserGuard(
    open_to_all=True,
    own_hosts=("demo",),
    allowed_hosts=("app.example.com", "*.example.org"),
    allowed_origins=("https://app.example.com", "http://*.example.org:3000"),
)
BEHIND_A_TOKEN = BrowserGuard(open_to_all=False, allowed_origins=("https://app.example.com",))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:5678",
        "[::1]:5678",
        "10.1.2.3",
        "demo:5678",
        "app.example.com",
        "app.example.com.:443",
        "a.example.org",
        "a.b.example.org",
        "x.localhost",
    ],
)
def test_a_name_of_the_server(host: str) -> None:
    """Loopback, IP addresses, its own name and the allowed names are names of a server without a token."""
    OPEN.check(host.encode(), None)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "example.org",
        "xexample.org",
        "app.example.com.attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "demo.attacker.example",
        "127.0.0.1:80:80",
        "[::1",
        "a b",
        "\xff",
    ],
)
def test_another_name(host: str) -> None:
    """Any other name is refused where there is no token, and is free where there is one."""
    with pytest.raises(Forbidden, match="allowedHosts"):
        OPEN.check(host.encode("latin-1"), None)
    BEHIND_A_TOKEN.check(host.encode("latin-1"), None)


@pytest.mark.parametrize(
    "origin", ["http://demo", "https://app.example.com", "https://app.example.com:443", "http://a.example.org:3000"]
)
def test_an_allowed_page(origin: str) -> None:
    """The server's own pages and those of allowed origins may send requests."""
    OPEN.check(b"demo", origin.encode())


@pytest.mark.parametrize("guard", [OPEN, BEHIND_A_TOKEN])
@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://attacker.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.attacker.example",
        "http://demo:81",
        "file://",
        "http://[",
        "https://app.example.com/x",
    ],
)
def test_a_foreign_page(guard: BrowserGuard, origin: str) -> None:
    """A page of another scheme, host or port is refused, with a token too, and so is a page without an origin."""
    with pytest.raises(Forbidden, match="allowedOrigins"):
        guard.check(b"demo", origin.encode())


def test_any() -> None:
    """`*` allows every host and every origin."""
    guard = BrowserGuard(open_to_all=True, allowed_hosts=("*",), allowed_origins=("*",))
    guard.check(b"whatever.example:1", b"null")


def test_two_hosts() -> None:
    """A request with two hosts is refused: which one counts would be a matter of taste."""
    with pytest.raises(Forbidden, match="two headers Host"):
        find([(b"host", b"localhost"), (b"host", b"attacker.example")])


@pytest.mark.parametrize("text", ["", "a:80", "http://a", "*.*.a", "a.*", "-a", "a..b", "x" * 300])
def test_what_is_no_host(text: str) -> None:
    """A name that no request can have is refused when it is set, and the error shows what is right."""
    with pytest.raises(InvalidRequest, match=r"such as app\.example\.com"):
        parse_host_pattern(text)


@pytest.mark.parametrize(
    "text", ["", "app.example.com", "https://", "ftp://a", "https://a/b", "https://a:99999", "https://*"]
)
def test_what_is_no_origin(text: str) -> None:
    """An origin that no page can have is refused when it is set, and the error shows what is right."""
    if text == "https://*":
        assert parse_origin_pattern(text) == text
        return
    with pytest.raises(InvalidRequest, match=r"such as https://app\.example\.com"):
        parse_origin_pattern(text)
