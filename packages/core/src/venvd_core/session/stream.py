"""The stream between the server and one session's process. User code may write to it, so the server trusts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from venvd_contract.errors import VenvdError
from venvd_contract.framing import MAX_LINE, Buffer, attachment_sizes
from venvd_contract.session_requests import Limits
from venvd_core.wire import GarbledError, SessionLine, parse_line, parse_sizes

OnLine = Callable[[SessionLine, Sequence[bytes]], None]
"""Takes a line and its attachments; raises `GarbledError` for an unexpected line."""
OnBroken = Callable[[str], None]
"""Takes the reason why a stream ended, as a sentence without its subject."""

CLOSED = "closed its channel"
"""The reason if the session closed its end."""


_MIB = 1 << 20
_UNLIMITED_RESULT = 256 * _MIB
_UNLIMITED_OUTPUT = MAX_LINE
_LONGEST_ESCAPE = 6
"""The most bytes of JSON in an event for one byte that the session counted."""


def largest_reply(limits: Limits) -> int:
    """Return the most bytes of one reply of a session with these limits; a larger reply breaks the protocol."""
    result = _UNLIMITED_RESULT if limits.resultBytes is None else limits.resultBytes
    output = _UNLIMITED_OUTPUT if limits.outputBytes is None else limits.outputBytes
    return _MIB + result + output


def largest_events(limits: Limits) -> int:
    """Return the most bytes of all events of one call."""
    output = _UNLIMITED_OUTPUT if limits.outputBytes is None else min(limits.outputBytes, MAX_LINE)
    return _MIB + _LONGEST_ESCAPE * output


def write_nowhere(_data: bytes) -> None:
    """Drop data: the `write` of a stream without a transport."""


class Stream(asyncio.Protocol):
    """Reads lines and their attachments from the stream.

    The stream breaks at a line longer than `max_line`, at attachments larger than that together, and at an invalid
    line. It then calls `on_broken` with the reason, and reads no more.
    """

    def __init__(self, on_line: OnLine, on_broken: OnBroken, max_line: int) -> None:
        self._on_line: OnLine | None = on_line
        self._on_broken = on_broken
        self._max_line = max_line
        self._buffer = Buffer(max_line)
        self._line: SessionLine | None = None
        self._sizes: list[int] = []
        self._between_lines = True
        self._transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = write_nowhere
        """The transport's own method once it is connected: a function around it would slow down every call."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write

    def hand_over(self, on_line: OnLine, on_broken: OnBroken) -> None:
        """Pass lines, and the reason of the end, to these functions from now on."""
        self._on_line, self._on_broken = on_line, on_broken

    def tell(self, line: bytes) -> None:
        """Write a line that has no reply, if the stream is still open."""
        self.write(line)

    def data_received(self, data: bytes) -> None:
        on_line = self._on_line
        if on_line is None:
            return
        try:
            if self._between_lines and data.find(b"\n") == len(data) - 1:  # the usual case: one whole reply
                line = parse_line(data)
                if not line.attachments:
                    on_line(line, ())
                    return
                self._begin_attachments(line)
            else:
                self._buffer.feed(data)
            self._drain()
            self._between_lines = self._line is None and not self._buffer
        except (GarbledError, VenvdError) as error:
            self._break(f"sent {error}")

    def _drain(self) -> None:
        while self._on_line is not None:
            if self._line is not None:
                attachments = self._buffer.take_parts(self._sizes)
                if attachments is None:
                    return
                line, self._line = self._line, None
                self._on_line(line, attachments)
                continue
            data = self._buffer.line()
            if data is None:
                return
            line = parse_line(data)
            if line.attachments:
                self._begin_attachments(line)
            else:
                self._on_line(line, ())

    def _begin_attachments(self, line: SessionLine) -> None:
        self._sizes = attachment_sizes(parse_sizes(line.attachments))
        if sum(self._sizes) > self._max_line:
            raise GarbledError("attachments over the limit")
        self._line = line

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — the warden knows how the process ended
        self._break(CLOSED)

    def _break(self, why: str) -> None:
        if self._on_line is not None:
            self.close()
            self._on_broken(why)

    def close(self) -> None:
        """Read and write no more; does not call `on_broken`."""
        self._on_line = None
        self.write = write_nowhere
        self._buffer = Buffer(0)
        if self._transport is not None:
            self._transport.abort()
