"""What a request says in its headers and its body, checked."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from venvd_contract.errors import Forbidden, InvalidRequest, TooLarge, VenvdError
from venvd_core.monitor import Receive

SWALLOWED = 64 << 20
"""Bytes over the limit that are still read, so that a client that only writes gets to see its answer."""


class ClientGone(Exception):
    """The client closed its connection before its request was whole."""


@dataclass(slots=True)
class Head:
    """The headers that concern a call."""

    token: str | None = None
    session: str | None = None
    timeout: float | None = None
    values: str = "plain"
    call: str | None = None
    lease: float | None = None
    length: int = 0
    chunked: bool = False
    wants_events: bool = False
    expects: bool = False
    origin: bytes | None = None
    host: bytes = b""

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Head:
        head = cls()
        for name, value in headers:
            put = _HEADERS.get(name)
            if put is not None:
                put(head, value)
        return head


def _token(head: Head, value: bytes) -> None:
    if value[:7].lower() == b"bearer ":
        head.token = str(value[7:].strip(), "latin-1")


def _session(head: Head, value: bytes) -> None:
    head.session = str(value, "latin-1") or None


def _timeout(head: Head, value: bytes) -> None:
    try:
        head.timeout = float(value)
    except ValueError:
        raise InvalidRequest("X-Venvd-Timeout takes seconds, such as 2.5") from None


def _values(head: Head, value: bytes) -> None:
    head.values = str(value, "latin-1")


def _call(head: Head, value: bytes) -> None:
    head.call = str(value, "latin-1") or None


def _lease(head: Head, value: bytes) -> None:
    try:
        head.lease = float(value)
    except ValueError:
        raise InvalidRequest("X-Venvd-Lease takes seconds, such as 60") from None


def _length(head: Head, value: bytes) -> None:
    head.length = int(value)


def _encoding(head: Head, _value: bytes) -> None:
    head.chunked = True


def _accept(head: Head, value: bytes) -> None:
    head.wants_events = b"text/event-stream" in value.lower()


def _expect(head: Head, _value: bytes) -> None:
    head.expects = True


def _origin(head: Head, value: bytes) -> None:
    head.origin = value


def _host(head: Head, value: bytes) -> None:
    head.host = value


_HEADERS = {
    b"authorization": _token,
    b"x-venvd-session": _session,
    b"x-venvd-timeout": _timeout,
    b"x-venvd-values": _values,
    b"x-venvd-call": _call,
    b"x-venvd-lease": _lease,
    b"content-length": _length,
    b"transfer-encoding": _encoding,
    b"accept": _accept,
    b"expect": _expect,
    b"origin": _origin,
    b"host": _host,
}


def check_origin(head: Head) -> None:
    """Where no token guards the backend, keep web pages away from it: a browser names the page in `Origin`.

    Pages of the backend's own (`/docs`) are let through where it is addressed by IP or as localhost: a name could be
    anyone's who points it here.

    Raises:
        Forbidden: another page sent the request.
    """
    if head.origin is None:
        return
    origin = urlsplit(str(head.origin, "latin-1"))
    if origin.netloc != str(head.host, "latin-1") or not _is_local_name(origin.hostname or ""):
        raise Forbidden("this backend has no token, and so takes no requests from web pages")


def _is_local_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def read_body(head: Head, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole body; between its parts at most `patience` seconds pass.

    Raises:
        TooLarge: more than `limit` bytes.
        InvalidRequest: it stopped coming.
        ClientGone: the client closed the connection.
    """
    if head.length > limit and head.expects:
        raise _too_large(limit)  # the client waits to be told before it sends
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(body, receive, limit, patience)
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _rest(first: bytes, receive: Receive, limit: int, patience: float) -> bytes:
    parts, size = [first], len(first)
    while True:
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise InvalidRequest(f"the body stopped coming after {size} bytes") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit + SWALLOWED:
            raise Unread(limit)
        if not message.get("more_body"):
            break
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> VenvdError:
    return TooLarge(f"the body is larger than the limit of {limit} bytes")


class Unread(TooLarge):
    """So much too large that the rest is not even read: the connection cannot be used any more."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than the limit of {limit} bytes")
