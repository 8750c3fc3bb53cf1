"""Bare ASGI on uvicorn with uvloop and httptools: `POST` echoes the body, `GET /?N` sends N MB in 1 MB chunks.

Each chunk has memory of its own, like the parts of an array. A repeated chunk would come from the processor's cache.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

MB = 1_000_000
CHUNKS: list[bytes] = []
HEADERS = [(b"content-type", b"application/json")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["method"] == "GET":
        await _stream(int(scope["query_string"]), send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _chunks(size: int) -> list[bytes]:
    CHUNKS.extend(b"\x01" * MB for _ in range(size - len(CHUNKS)))
    return CHUNKS[:size]


async def _stream(size: int, send: Any) -> None:
    headers = [(b"content-length", b"%d" % (size * MB))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in _chunks(size):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    host, port = sys.argv[1:] or ("127.0.0.1", "0")
    listener = socket.socket()
    listener.bind((host, int(port)))
    listener.listen(1024)
    print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
    options = {"lifespan": "off", "access_log": False, "log_level": "warning", "timeout_keep_alive": 600}
    uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", **options)).run([listener])


if __name__ == "__main__":
    main()
