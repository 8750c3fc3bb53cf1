"""`exec` as server-sent events: output as it appears, then `result` or `error`, then `done`."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from venvd_contract.errors import VenvdError
from venvd_core.backend import Backend, Call, Request
from venvd_core.monitor import Receive, Send
from venvd_core.wire import encode
from venvd_http_backend.incoming import ClientGone
from venvd_http_backend.watch import Watch

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_ALIVE_EVERY = 15.0
_ALIVE = b": alive\n\n"


class _Output(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    durationMs: float = 0.0  # noqa: N815 — a name on the wire
    truncated: bool = False


_output = msgspec.json.Decoder(_Output)


def _event(kind: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


async def serve_events(backend: Backend, request: Request, receive: Receive, send: Send, watch: Watch | None) -> None:
    """Run a call and send what happens as it happens.

    Raises:
        VenvdError: it could not be begun; nothing has been sent.
        ClientGone: the client went away; its call is cancelled.
    """
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
    call = Call(request, on_event=lambda kind, data: waiting.put_nowait(_event(kind, encode(data))))
    backend.begin(call)
    if call.done():
        call.result()
    call.add_done_callback(lambda done: waiting.put_nowait(_last(done)))
    call.add_done_callback(lambda _: waiting.put_nowait(None))
    if watch is not None:
        watch.note(call.future(), receive)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _pass_on(waiting, send)
    finally:
        call.cancel()
    if call.cancelled():
        raise ClientGone
    await send({"type": "http.response.body", "body": b""})


async def _pass_on(waiting: asyncio.Queue[bytes | None], send: Send) -> None:
    """Send what waits, as much of it at once as there is, until its end."""
    ended = False
    while not ended:
        try:
            async with asyncio.timeout(_ALIVE_EVERY):
                parts = [await waiting.get()]
        except TimeoutError:
            parts = [_ALIVE]
        while not waiting.empty():
            parts.append(waiting.get_nowait())
        ended = parts[-1] is None
        body = b"".join(part for part in parts if part)
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _last(call: Call) -> bytes:
    """The events that end the stream."""
    if call.cancelled():
        return b""
    error = call.exception()
    if error is None:
        return _ended(call.result().result)
    problem: dict[str, Any] = error.problem() if isinstance(error, VenvdError) else {}
    return _event("error", encode(problem)) + _event("done", b"{}")


def _ended(result: bytes) -> bytes:
    output = _output.decode(result)
    failed = bytes(output.error)
    outcome = _event("result", bytes(output.result)) if failed == b"null" else _event("error", failed)
    summary = {"durationMs": output.durationMs, "truncated": output.truncated}
    return outcome + _event("done", encode(summary))
