"""Addresses of peers, and exchanges with them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from venvd._net.certificates import create_tls_context
from venvd.errors import InvalidRequest

CONNECT_TIMEOUT = 10.0
"""Seconds to connect."""
CHUNK = 64 * 1024
"""Bytes of one read. The allocator maps 128 KiB and more anew each time, which costs more than a call."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed address: a host and port, or the path of a Unix socket.

    Attributes:
        url: the address that the program gave.
        prefix: the path before every path of the API, without a slash at its end.
    """

    url: str
    scheme: str
    host: str = ""
    port: int = 0
    prefix: str = ""
    path: str | None = None
    ca: str | None = None

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def ended_early(self) -> str:
        """The advice for a connection that ended before an answer began."""
        other = ". So does a server with TLS: its address begins with https://" if self.scheme == "http" else ""
        return f"; a backend that is starting does so: wait for it with wait_ready(), or see `venvd status`{other}"

    @property
    def probe(self) -> bytes:
        """The request that every backend answers by itself, without a session and without a token."""
        if self.path is not None:
            return b'{"id":0,"command":"ping"}\n'
        return f"GET {self.prefix}/health HTTP/1.1\r\nHost: {self.authority}\r\nConnection: close\r\n\r\n".encode()

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context that checks the server's certificate, or None without TLS.

        Raises:
            InvalidRequest: a file of certificates is not usable.
        """
        return create_tls_context(self.ca) if self.scheme == "https" else None


def parse(url: str, schemes: Sequence[str], ca: str | None = None) -> Endpoint:
    """Return the endpoint of `url`. `ca` is a file of authorities, as `create_tls_context` takes it.

    Raises:
        InvalidRequest: `url` is not an address, or its scheme is not one of `schemes`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f'"{url}" is no address: {error}') from None
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidRequest(f'"{url}" is no address for this: begin it with one of {known}')
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise InvalidRequest(f'"{url}" names no socket: write unix:///path/of/pipe.sock')
        return Endpoint(url, "unix", path=parts.path)
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InvalidRequest(f'"{url}" is no address of a server: write {parts.scheme}://host:port')
    default = 443 if parts.scheme == "https" else 80
    return Endpoint(url, parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"), ca=ca)


class Reader(Protocol):
    """Decodes one answer from bytes. Knows no socket.

    Attributes:
        started: whether the first byte of the answer has come.
        done: whether the whole answer has come.
        reusable: whether the connection can carry another exchange.
    """

    started: bool
    done: bool
    reusable: bool

    def feed(self, data: bytes) -> None:
        """Take bytes. Raise `BadReply` if they break the protocol."""

    def eof(self) -> None:
        """Note that the peer closed. Raise `Unavailable` or `BadReply` if the answer is not whole."""


@dataclass(slots=True)
class Exchange:
    """One request and the reader of its answer.

    Attributes:
        data: the bytes of the request.
        reader: decodes the answer.
        repeatable: whether the client may send the request twice.
        body: bytes that follow `data` in a bulk transfer.
    """

    data: bytes
    reader: Reader
    repeatable: bool = False
    body: memoryview | None = None
