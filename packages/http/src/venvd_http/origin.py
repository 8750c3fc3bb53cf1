"""Requests that a browser sends for a web page: the names of a server, and the pages that may send it requests."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from venvd_contract.errors import Forbidden, InvalidRequest

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"\*|(\*\.)?{_LABEL}(\.{_LABEL})*")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MOST_REMEMBERED = 256


class BrowserGuard:
    """Checks `Host` and `Origin` of each request; no other code does.

    A server without a token accepts only requests for loopback, for an IP address, for its own names and for the
    allowed hosts. Otherwise an attacker could point a name at this server, and a browser would let the pages of that
    name use the server (DNS rebinding). A server with a token accepts any host, because such a page does not have the
    token. An origin must be the server itself or an allowed one. Programs other than browsers send no origin.

    Args:
        open_to_all: whether the server has no token.
        own_hosts: names of the server beside `localhost`.
        allowed_hosts: further names; `*.example.com` is every name below example.com, but not example.com; `*` is any.
        allowed_origins: origins of pages, such as `https://app.example.com`; their hosts may begin with `*` too.
    """

    def __init__(
        self,
        *,
        open_to_all: bool,
        own_hosts: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
    ) -> None:
        self._open_to_all = open_to_all
        self._hosts = ["localhost", "*.localhost", *(name.lower() for name in own_hosts if name)]
        self._hosts += [parse_host_pattern(pattern) for pattern in allowed_hosts]
        self._origins = [_split_origin(pattern) for pattern in map(parse_origin_pattern, allowed_origins)]
        self._any_origin = "*" in allowed_origins
        self._accepted: set[tuple[bytes, bytes | None]] = set()

    def check(self, host: bytes, origin: bytes | None) -> None:
        """Check the values of `Host` and `Origin`; `b""` and None stand for absent headers.

        Raises:
            Forbidden: one is refused; the message says which, and the setting that allows it.
        """
        if (host, origin) in self._accepted:
            return
        if self._open_to_all and host and not self._is_known(_strip_port(str(host, "latin-1"))):
            raise Forbidden(
                f"this server has no token, and {_quote(host)} is not one of its names: use localhost or an IP, "
                "or add the name to allowedHosts"
            )
        if origin is not None and not self._is_own(origin, host) and not self._may_ask(str(origin, "latin-1")):
            raise Forbidden(
                f"the web page {_quote(origin)} may not send requests here: allowedOrigins names those that may"
            )
        if len(self._accepted) >= _MOST_REMEMBERED:
            self._accepted.clear()
        self._accepted.add((host, origin))

    def _is_known(self, host: str) -> bool:
        return _is_address(host) or any(_matches(host, pattern) for pattern in self._hosts)

    @staticmethod
    def _is_own(origin: bytes, host: bytes) -> bool:
        """Return whether this server has sent the page, such as `/docs`. Its host is checked before."""
        scheme, _, authority = origin.partition(b"://")
        return scheme in {b"http", b"https"} and bool(host) and authority.lower() == host.lower()

    def _may_ask(self, origin: str) -> bool:
        if self._any_origin:
            return True
        try:
            scheme, host, port = _split_origin(origin)
        except ValueError:
            return False
        return any(
            (scheme, port) == (pattern[0], pattern[2]) and _matches(host, pattern[1]) for pattern in self._origins
        )


def parse_host_pattern(text: str) -> str:
    """Check a name of `allowedHosts`, and return it in lower case.

    Raises:
        InvalidRequest: it is neither a name, nor `*.` and a name, nor `*`.
    """
    name = text.lower().rstrip(".")
    if len(name) > 255 or not _HOST.fullmatch(name):
        raise InvalidRequest(
            f'allowedHosts takes names without a port, such as app.example.com or *.example.com, not "{text[:80]}"'
        )
    return name


def parse_origin_pattern(text: str) -> str:
    """Check an origin of `allowedOrigins`, and return it in lower case.

    Raises:
        InvalidRequest: it is neither scheme, host and port, nor `*`.
    """
    origin = text.lower().rstrip("/")
    try:
        scheme, host, _ = ("http", "*", 0) if origin == "*" else _split_origin(origin)
        valid = scheme in _DEFAULT_PORTS and bool(_HOST.fullmatch(host) or _is_address(host))
    except ValueError:
        valid = False
    if not valid:
        raise InvalidRequest(
            "allowedOrigins takes origins of web pages, such as https://app.example.com, https://*.example.com or "
            f'http://localhost:3000, not "{text[:80]}"'
        )
    return origin


def find(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes | None]:
    """Find `Host` and `Origin` among headers.

    Raises:
        Forbidden: one is there twice with different values, which no browser sends.
    """
    host: bytes | None = None
    origin: bytes | None = None
    for name, value in headers:
        if name == b"host":
            if host is not None and host != value:
                raise Forbidden("the request has two headers Host")
            host = value
        elif name == b"origin":
            if origin is not None and origin != value:
                raise Forbidden("the request has two headers Origin")
            origin = value
    return host or b"", origin


def _split_origin(origin: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; a missing port is the scheme's own.

    Raises:
        ValueError: it is not an origin.
    """
    parts = urlsplit("*://" if origin == "*" else origin)
    if origin != "*" and (not parts.hostname or parts.path or parts.query or parts.fragment or parts.username):
        raise ValueError(origin)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _strip_port(host: str) -> str:
    """Return the host of an authority in lower case; any other text is returned as it is, and matches no host."""
    name, _, port = host.rpartition(":")
    if name and port.isdecimal() and (name.startswith("[") or ":" not in name):
        host = name
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1].lower()
    return host.lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return pattern in {"*", host}


def _quote(value: bytes) -> str:
    return ascii(str(value[:80], "latin-1"))
