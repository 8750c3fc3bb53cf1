"""Finds out why a gRPC connection fails. gRPC itself reports every failed handshake as if no server answered."""

from __future__ import annotations

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

from venvd._net.certificates import create_tls_context, explain_failure, explain_refusal
from venvd.errors import Unavailable

_SECONDS = 3.0
"""Seconds for each step."""
_ALPN = ("h2",)
_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The peer ended the connection without an answer, as a starting server does."""


def explain_no_connection(url: str, ca: str | None) -> Unavailable | None:
    """Shake hands with the server as gRPC does with these files, and return what failed.

    Args:
        url: `grpc://…` or `grpcs://…`.
        ca: the file of authorities, as `create_tls_context` takes it.

    Returns:
        None if the handshake does not fail.

    Raises:
        InvalidRequest: a file of certificates is not usable.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "grpcs"
    context = create_tls_context(ca, _ALPN) if secure else _create_open_context()
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port or 443), _SECONDS)
    except (OSError, UnicodeError):
        return None
    with contextlib.closing(connection):
        if secure:
            return _shake_hands(connection, context, url, parts.hostname or "")
        return _look_for_tls(connection, context, url)


def _shake_hands(connection: socket.socket, context: ssl.SSLContext, url: str, host: str) -> Unavailable | None:
    try:
        with context.wrap_socket(connection, server_hostname=host) as tls:
            if tls.selected_alpn_protocol() != "h2":
                other = url.replace("grpcs://", "https://", 1)
                return Unavailable(
                    f"the server at {url} speaks TLS without HTTP/2, so it is no gRPC server: try {other}"
                )
            # With TLS 1.3, a server refuses the client's certificate after the handshake. A gRPC server that accepts
            # the client speaks first, and one that refuses it says nothing.
            return None if _has_spoken(tls) else Unavailable(explain_refusal(url))
    except _ENDED:
        return None
    except ssl.SSLError as error:
        return Unavailable(explain_failure(url, error))
    except OSError:
        return None


def _has_spoken(tls: ssl.SSLSocket) -> bool:
    try:
        return bool(tls.recv(1))
    except TimeoutError:
        return True  # the server is slow
    except (*_ENDED, ConnectionError):
        return False


def _look_for_tls(connection: socket.socket, context: ssl.SSLContext, url: str) -> Unavailable | None:
    try:
        context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return None
    except OSError:
        return None
    secure = url.replace("grpc://", "grpcs://", 1)
    return Unavailable(f"the server at {url} speaks TLS: its address begins with grpcs://, so try {secure}")


def _create_open_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
