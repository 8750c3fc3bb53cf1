"""Large bodies: reads them straight into their memory, and writes them from it without a copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from venvd._net.http1 import ResponseReader
from venvd.errors import BadReply

PIECE = 1 << 20
"""Bytes of one write."""

_ERROR_BYTES = 1 << 20
_LARGEST = 1 << 62

Allocate = Callable[[int], memoryview]
"""Returns memory of a number of bytes."""


def split_view(view: memoryview) -> Iterator[memoryview]:
    """Yield a view of bytes in parts of `PIECE`."""
    return (view[start : start + PIECE] for start in range(0, len(view), PIECE))


class BulkReader(ResponseReader):
    """Reads one response. The body of a success goes into `content`, which is memory from `allocate`.

    `room` is the part of `content` that is still empty. A connection may read bytes straight into it, and must then
    call `note_filled`.
    """

    __slots__ = ("_allocate", "content", "room")

    def __init__(self, allocate: Allocate) -> None:
        super().__init__()
        self._allocate = allocate
        self.content = memoryview(b"")
        self.room = memoryview(b"")

    def note_filled(self, count: int) -> None:
        """Note that the connection has written `count` bytes to the beginning of `room`."""
        self.room = self.room[count:]
        self.done = not self.room

    def whole(self) -> memoryview:
        """Return the body of a success once it is done, and drop it here. A reader lives until a garbage collection."""
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
            raise BadReply(f"this program has no memory for the {size} bytes of the answer") from None
        self._state = self._read_bulk
        self.done = size == 0

    def _read_bulk(self) -> bool:
        count = min(len(self._buffer), len(self.room))
        self.room[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        self.note_filled(count)
        return False


class Filler(asyncio.BufferedProtocol):
    """Replaces a connection's protocol while a large body comes, so that the event loop reads straight into memory."""

    def __init__(self, owner: asyncio.Protocol, reader: BulkReader, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._reader = reader
        self._transport = transport
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - all the empty memory
        return self._reader.room

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.note_filled(nbytes)
        if self._reader.done:
            self.restore()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)
        self._end()

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()

    def restore(self) -> None:
        """Restore the connection's own protocol."""
        self._transport.set_protocol(self._owner)
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
