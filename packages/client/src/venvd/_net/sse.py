"""Parses server-sent events. Knows no socket."""

from __future__ import annotations

from dataclasses import dataclass

from venvd.errors import BadReply

MAX_EVENT = 64 * 1024 * 1024
"""The most bytes of one event."""

_LINE_BYTES = 8
"""Bytes to add to the size of each line of data, for its place in the list."""


@dataclass(slots=True)
class ServerEvent:
    """One event: the last ID seen, its name and its data."""

    id: str
    name: str
    data: str


class EventParser:
    """Parses the bytes of a `text/event-stream`. Ignores comments and unknown fields."""

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._buffer = bytearray()
        self._searched = 0
        self._id = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take bytes and return the events that they complete."""
        self._buffer += data
        events = []
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            event = self._parse_line(line.decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        self._searched = len(self._buffer)
        if self._searched + self._size > self._max_event:
            raise BadReply(f"a server-sent event is larger than {self._max_event} bytes")
        return events

    def _parse_line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._finish()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(value) + _LINE_BYTES
        elif name == "event":
            self._name = value
        elif name == "id":
            self._id = value
        return None

    def _finish(self) -> ServerEvent | None:
        event = ServerEvent(self._id, self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event
