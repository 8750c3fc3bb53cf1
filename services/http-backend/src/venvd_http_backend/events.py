"""`exec` as server-sent events: output as it appears, then `result` or `error`, then `done`."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from venvd_contract.errors import VenvdError
from venvd_core.backend import Call
from venvd_core.wire import encode
from venvd_http import sse
from venvd_http.asgi import Send
from venvd_http.clients import ClientGone
from venvd_http.sse import render_event
from venvd_http_backend.commands import Commands, make_request
from venvd_http_backend.request import HttpRequest

_QUIET_SECONDS = 15.0
"""Seconds without an event after which the server sends a comment, to keep the connection open."""


class _Output(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    durationMs: float = 0.0  # noqa: N815 — a name on the wire
    truncated: bool = False
    executionCount: int = 0  # noqa: N815 — as above
    resultText: str | None = None  # noqa: N815 — as above


_output = msgspec.json.Decoder(_Output)


class _Waiting:
    """Events that are not sent yet, as bytes: an object for each would take more memory than its text."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._came = asyncio.Event()
        self.ended = False

    def add(self, event: bytes) -> None:
        self._data += event
        self._came.set()

    def end(self, last: bytes) -> None:
        self.ended = True
        self.add(last)

    async def take(self) -> bytearray:
        """Wait for events or the end, and return all waiting events."""
        await self._came.wait()
        self._came.clear()
        data, self._data = self._data, bytearray()
        return data


async def serve_events(commands: Commands, request: HttpRequest) -> None:
    """Run an `exec` and send its events as they occur.

    Raises:
        VenvdError: the call could not begin, and nothing is sent.
        ClientGone: the client went away; its call is cancelled.
    """
    body = await commands.read_body("exec", request)
    waiting = _Waiting()
    call = Call(
        make_request("exec", request.head, body),
        on_event=lambda kind, data: waiting.add(render_event(kind, data)),
    )
    commands.backend.begin(call)
    if call.done():
        call.result()
    call.add_done_callback(lambda done: waiting.end(_last_events(done)))
    if commands.watch is not None:
        commands.watch.add(call.future(), request.receive)
    try:
        await request.send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
        await _send_waiting(waiting, request.send)
    finally:
        call.cancel()
    if call.cancelled():
        raise ClientGone
    await request.send({"type": "http.response.body", "body": b""})


async def _send_waiting(waiting: _Waiting, send: Send) -> None:
    """Send all waiting events together, again and again, until the end."""
    ended = False
    while not ended:
        body: bytes | bytearray
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                body = await waiting.take()
            ended = waiting.ended
        except TimeoutError:
            body = sse.KEEP_ALIVE
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _last_events(call: Call) -> bytes:
    """Return the events that end the stream."""
    if call.cancelled():
        return b""
    error = call.exception()
    if error is not None:
        problem: dict[str, Any] = error.problem() if isinstance(error, VenvdError) else {}
        return render_event("error", encode(problem)) + render_event("done", b"{}")
    output = _output.decode(call.result().result)
    if bytes(output.error) == b"null":
        outcome = render_event("result", bytes(output.result))
    else:
        outcome = render_event("error", bytes(output.error))
    summary = {
        "durationMs": output.durationMs,
        "truncated": output.truncated,
        "executionCount": output.executionCount,
        "resultText": output.resultText,
    }
    return outcome + render_event("done", encode(summary))
