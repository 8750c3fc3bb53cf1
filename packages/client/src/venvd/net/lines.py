"""The pipe's framing without a socket: a reader of one reply and the events before it."""

from __future__ import annotations

from collections import deque
from typing import Any

from venvd.errors import BadReply, Unavailable, VenvdError
from venvd_contract.framing import Buffer, attachment_sizes, parse_line

MAX_LINE = 256 * 1024 * 1024
"""Bytes of one line of a reply."""


class LineReader:
    """Reads events and then the reply: `events_seen` holds what came, `reply` is set at the end."""

    __slots__ = (
        "_buffer",
        "_message",
        "_sizes",
        "attachments",
        "done",
        "events_seen",
        "reply",
        "reusable",
        "size",
        "started",
    )

    def __init__(self) -> None:
        self.started = False
        self.done = False
        self.reusable = True
        self.events_seen: deque[dict[str, Any]] = deque()
        self.reply: dict[str, Any] = {}
        self.attachments: list[bytes] = []
        self.size = 0
        self._buffer = Buffer(MAX_LINE)
        self._message: dict[str, Any] | None = None
        self._sizes: list[int] = []

    def feed(self, data: bytes) -> None:
        self.started = True
        self._buffer.feed(data)
        try:
            while not self.done and self._next():
                pass
        except VenvdError as error:
            raise BadReply(f"the backend's answer cannot be read: {error.message}") from None
        if self.done and len(self._buffer):
            self.reusable = False

    def cut(self) -> None:
        """What came last is not the beginning of what comes next."""
        self._buffer.rest()

    def eof(self) -> None:
        self.reusable = False
        if not self.done:
            raise Unavailable("the connection was closed before the answer was whole")

    def _next(self) -> bool:
        if self._message is None:
            line = self._buffer.line()
            if line is None:
                return False
            self.size = len(line)
            self._message = parse_line(line)
            self._sizes = attachment_sizes(self._message.get("attachments"))
        while self._sizes:
            part = self._buffer.take(self._sizes[0])
            if part is None:
                return False
            self.attachments.append(part)
            del self._sizes[0]
        message, self._message = self._message, None
        if "event" in message:
            self.events_seen.append(message)
        else:
            self.reply = message
            self.done = True
        return True
