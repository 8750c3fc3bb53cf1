"""Bare ASGI on uvicorn with uvloop and httptools: `POST` echoes the body, `GET` sends so many MB in 1 MB chunks."""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

MB = 1_000_000
CHUNK = bytes(MB)
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


async def _stream(size: int, send: Any) -> None:
    headers = [(b"content-length", b"%d" % (size * MB))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left in range(size - 1, -1, -1):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": left > 0})


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
