"""Where a peer is."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from venvd.errors import DeadlineExceeded, InvalidRequest

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to be made."""
_LONGEST = 24 * 86400.0
"""Seconds: the kernel waits for no more milliseconds than fit into 31 bits."""
CHUNK = 64 * 1024
"""Bytes asked for at once: the allocator maps room of 128 KiB and more anew each time, which costs more than a call."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address as it was given and what it means: a host and port, or the path of a Unix socket.

    Attributes:
        prefix: path before every path of the API, without a slash at its end.
    """

    url: str
    scheme: str
    host: str = ""
    port: int = 0
    prefix: str = ""
    path: str | None = None

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.scheme == "https" else None


def parse(url: str, schemes: Sequence[str]) -> Endpoint:
    """The endpoint of `url`.

    Raises:
        InvalidRequest: it is none, or its scheme is not one of `schemes`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f'"{url}" is no address: {error}') from None
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidRequest(f'"{url}" is no address that can be used here: it must begin with one of {known}')
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise InvalidRequest(f'"{url}" names no socket: write unix:///path/of/pipe.sock')
        return Endpoint(url, "unix", path=parts.path)
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InvalidRequest(f'"{url}" is no address of a server: write {parts.scheme}://host:port')
    default = 443 if parts.scheme == "https" else 80
    return Endpoint(url, parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))


class Reader(Protocol):
    """Makes one answer of the bytes that come; knows no socket.

    Attributes:
        started: a byte of the answer has come.
        done: the answer is whole.
        reusable: the connection can carry another exchange.
    """

    started: bool
    done: bool
    reusable: bool

    def feed(self, data: bytes) -> None:
        """Take bytes; raises `BadReply` where they break the protocol."""

    def eof(self) -> None:
        """The peer closed; raises `Unavailable` or `BadReply` where the answer is not whole."""


@dataclass(slots=True)
class Exchange:
    """One request and the reader of its answer; `repeatable` where sending it twice does no harm.

    `body` follows `data` in a bulk transfer; nothing else sends it.
    """

    data: bytes
    reader: Reader
    repeatable: bool = False
    body: memoryview | None = None


def deadline_after(timeout: float | None) -> float | None:
    """The monotonic clock `timeout` seconds from now, or the longest that may be waited for."""
    return None if timeout is None else time.monotonic() + min(timeout, _LONGEST)


def remaining(deadline: float | None, endpoint: Endpoint) -> float | None:
    """Seconds until `deadline`.

    Raises:
        DeadlineExceeded: it has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise too_late(endpoint)
    return left


def too_late(endpoint: Endpoint) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {endpoint.url} in time; the call was given up")
