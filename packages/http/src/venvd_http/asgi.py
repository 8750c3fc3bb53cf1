"""The types of ASGI, and whole responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
CLOSE: Headers = ((b"connection", b"close"),)
"""Tells uvicorn and the client that the connection ends with this response."""

encode = msgspec.json.Encoder().encode


def describe_peer(scope: Scope) -> str:
    """Return the address of a request's sender: of the proxy's client if a trusted proxy passed the request on."""
    client = scope.get("client")
    return client[0] if client and client[0] else "unix"


async def respond(send: Send, status: int, body: bytes, content_type: bytes = JSON) -> None:
    """Send one whole response."""
    await send_whole(send, status, ((b"content-type", content_type),), body)


async def respond_in_parts(send: Send, length: int, parts: Iterable[bytes]) -> None:
    """Send one JSON response part by part, as fast as the client reads. The parts have `length` bytes together."""
    headers = [(b"content-type", JSON), (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send one whole response; this function adds the header of its length to `headers`."""
    lines = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
