"""Reads the pipe's framing: one reply and the events before it. Knows no socket."""

from __future__ import annotations

from collections import deque
from typing import Any

from venvd.errors import BadReply, Unavailable, VenvdError
from venvd_contract.framing import Buffer, attachment_sizes, parse_line

MAX_LINE = 256 * 1024 * 1024
"""The most bytes of one line of a reply."""


class LineReader:
    """Reads events into `events_seen` and then the reply into `reply`."""

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
            while not self.done and self._read_message():
                pass
        except VenvdError as error:
            raise BadReply(f"the backend's answer is not valid: {error.message}") from None
        if self.done and len(self._buffer):
            self.reusable = False

    def discard_partial(self) -> None:
        """Discard the bytes of a line that is not whole."""
        self._buffer.rest()

    def eof(self) -> None:
        self.reusable = False
        if not self.done:
            raise Unavailable("the connection was closed before the whole answer came")

    def _read_message(self) -> bool:
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
