"""Bodies that are too large to be copied: read straight to where they belong, written from where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from venvd.errors import BadReply
from venvd.net.http1 import ResponseReader

PIECE = 1 << 20
"""Bytes that are written at once."""

_ERROR_BYTES = 1 << 20
_LARGEST = 1 << 62

Allocate = Callable[[int], memoryview]
"""Makes room for a number of bytes."""


def pieces(view: memoryview) -> Iterator[memoryview]:
    """A view of bytes in parts of `PIECE`."""
    return (view[start : start + PIECE] for start in range(0, len(view), PIECE))


class BulkReader(ResponseReader):
    """Reads one response; the body of a success goes into the room that `allocate` makes for it, and is `content`.

    Once there is `room`, bytes may be written there, and `filled` told of them.
    """

    __slots__ = ("_allocate", "content", "room")

    def __init__(self, allocate: Allocate) -> None:
        super().__init__()
        self._allocate = allocate
        self.content = memoryview(b"")
        self.room = memoryview(b"")

    def filled(self, count: int) -> None:
        """That many bytes were written to the beginning of `room`."""
        self.room = self.room[count:]
        self.done = not self.room

    def whole(self) -> memoryview:
        """The body of a success, once it is done; the reader, which lives until a garbage collection, lets go of it."""
        content = self.content or memoryview(self.body)
        self.content = self.room = memoryview(b"")
        return content

    def _choose_body(self) -> None:
        length = self.headers.get(b"content-length")
        if self.status >= 300 or length is None or b"transfer-encoding" in self.headers:
            self._max_body = _ERROR_BYTES if self.status >= 300 else _LARGEST
            super()._choose_body()
            return
        if self.headers.get(b"connection", b"").lower() == b"close":
            self.reusable = False
        size = self._number(length, 10)
        try:
            self.content = self.room = self._allocate(size)
        except (MemoryError, ValueError, OverflowError):
            raise BadReply(f"there is no memory for the {size} bytes of the answer") from None
        self._state = self._read_bulk
        self.done = size == 0

    def _read_bulk(self) -> bool:
        count = min(len(self._buffer), len(self.room))
        self.room[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        self.filled(count)
        return False


class Filler(asyncio.BufferedProtocol):
    """Stands in for a connection's protocol while a bulk is read: the event loop reads into the bulk itself."""

    def __init__(self, owner: asyncio.Protocol, reader: BulkReader, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._reader = reader
        self._transport = transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all the room there is
        return self._reader.room

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.filled(nbytes)
        if self._reader.done:
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)
        self._end()

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()

    def leave(self) -> None:
        """Give the connection back."""
        self._transport.set_protocol(self._owner)
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
