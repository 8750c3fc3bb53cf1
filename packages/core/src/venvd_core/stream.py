"""The stream between server and one session's process, read as what it is: bytes from where user code runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from venvd_contract.errors import VenvdError
from venvd_contract.framing import Buffer, attachment_sizes
from venvd_core.wire import GarbledError, Line, parse_line


class Reader(Protocol):
    """Who is told what a stream brings. `on_line` may raise `GarbledError` for a line that has no place there."""

    def on_line(self, line: Line, attachments: Sequence[bytes]) -> None: ...

    def on_broken(self, why: str) -> None: ...


def nowhere(_data: bytes) -> None:
    """There is nothing to write to."""


class Stream(asyncio.Protocol):
    """Takes lines and their attachments off the stream.

    A line longer than `max_line`, attachments larger than it in all, or anything that is no line of the protocol
    breaks the stream: its reader is told why, and nothing more is read.
    """

    def __init__(self, reader: Reader, max_line: int) -> None:
        self._reader: Reader | None = reader
        self._max_line = max_line
        self._buffer = Buffer(max_line)
        self._line: Line | None = None
        self._sizes: list[int] = []
        self._parts: list[bytes] = []
        self._between = True
        """Whether nothing has come that was not passed on."""
        self._transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = nowhere
        """The transport's own, while there is one: a call of ours around it would cost every call."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write

    @property
    def over(self) -> bool:
        """Whether nothing is read or written any more."""
        return self._reader is None

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            return
        try:
            if self._between and data.find(b"\n") == len(data) - 1:  # the usual case: one reply, whole
                line = parse_line(data)
                if not line.attachments:
                    reader.on_line(line, ())
                    return
                self._take(line)
            else:
                self._buffer.feed(data)
            self._drain()
            self._between = self._line is None and not self._buffer
        except (GarbledError, VenvdError) as error:
            self._break(f"sent {error}")

    def _drain(self) -> None:
        while self._reader is not None:
            if self._line is not None:
                if not self._collect():
                    return
                continue
            line = self._buffer.line()
            if line is None:
                return
            self._take(parse_line(line))

    def _take(self, line: Line) -> None:
        if line.attachments:
            self._sizes = attachment_sizes(line.attachments)[::-1]
            if sum(self._sizes) > self._max_line:
                raise GarbledError("attachments over the limit")
            self._line, self._parts = line, []
        elif self._reader is not None:
            self._reader.on_line(line, ())

    def _collect(self) -> bool:
        """Take attachments as far as they are there; whether the line is complete."""
        while self._sizes:
            part = self._buffer.take(self._sizes[-1])
            if part is None:
                return False
            self._sizes.pop()
            self._parts.append(part)
        line, self._line = self._line, None
        if self._reader is not None and line is not None:
            self._reader.on_line(line, self._parts)
        return True

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — how it was lost, the warden knows
        self._break("closed its channel")

    def _break(self, why: str) -> None:
        reader, self._reader = self._reader, None
        self.close()
        if reader is not None:
            reader.on_broken(why)

    def close(self) -> None:
        """Read and write no more; the reader is not told."""
        self._reader = None
        self.write = nowhere
        self._buffer = Buffer(0)
        if self._transport is not None:
            self._transport.abort()
