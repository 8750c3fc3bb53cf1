"""Server-sent events."""

from __future__ import annotations

from venvd_http.asgi import Headers

HEADERS: Headers = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
KEEP_ALIVE = b": alive\n\n"
"""A comment that keeps a quiet connection open."""


def render_event(kind: str, data: bytes, number: int | None = None) -> bytes:
    """Render one event; `data` is JSON on one line, `number` the event's ID.

    A carriage return between two tokens of the JSON would end the line, so a space replaces it.
    """
    if b"\r" in data:
        data = data.replace(b"\r", b" ")
    event = b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
    return event if number is None else b"id: %d\n%b" % (number, event)
