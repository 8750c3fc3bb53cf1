"""Memory that a session shares with the server; it comes from where user code runs, and is treated so.

A segment is a memfd whose size is sealed: it cannot shrink under this process, which would die of it. Every page of it
is there already, so that touching it costs this process none of its own memory; that is looked at before each touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections.abc import Callable

from venvd_contract.errors import Internal, SessionLost
from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.messages import SegmentNews
from venvd_contract.internal.segments import MOST_SEGMENTS, is_sealed
from venvd_core.wire import encode

_NEWS_TIMEOUT = 10.0
"""Seconds between a reply that names a segment and the warden's event that brings it."""
_BLOCK_BYTES = 512


class Segment:
    """One segment; the descriptor is this process's own."""

    def __init__(self, name: str, size: int, descriptor: int) -> None:
        self.name = name
        self.size = size
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._ended = False

    def part(self, start: int, end: int) -> memoryview:
        """Return some of its bytes, to be read or written at once.

        Raises:
            Internal: the session has taken pages away.
            SessionLost: its process ended.
        """
        if self._ended:
            raise SessionLost("the session's process ended while an array was under way; its state is lost")
        if self.descriptor < 0 or os.fstat(self.descriptor).st_blocks * _BLOCK_BYTES < self.size:
            raise Internal("the session took back memory that it shares")
        if self._map is None:
            self._map = self._map_memory()
        return memoryview(self._map)[start:end]

    def _map_memory(self) -> mmap.mmap:
        try:
            return mmap.mmap(self.descriptor, self.size)
        except OSError as error:
            raise Internal(f"memory that the session shares cannot be mapped: {error.strerror}") from None

    def close(self, *, ended: bool = False) -> None:
        """Close the descriptor; parts that are still used keep the memory. `ended`: since the session's process did."""
        self._ended = ended
        self._map = None
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Segments:
    """The segments of one session's process.

    Args:
        write: sends a line to the session.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._known: dict[str, Segment] = {}
        self._refused: set[str] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def on_news(self, event: SegmentNews, descriptors: list[int]) -> None:
        """Add a new segment, or remove those that are gone; takes over the descriptors."""
        for name in event.gone:
            self._refused.discard(name)
            if (gone := self._known.pop(name, None)) is not None:
                gone.close()
        if len(descriptors) == 1 and self._is_usable(event, descriptors[0]):
            self._known[event.name] = Segment(event.name, event.size, descriptors[0])
        else:
            close_descriptors(descriptors)
            if event.name and len(self._refused) < MOST_SEGMENTS:
                self._refused.add(event.name)
        waiting = self._waiting.pop(event.name, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _is_usable(self, event: SegmentNews, descriptor: int) -> bool:
        if not event.name or event.name in self._known or len(self._known) >= MOST_SEGMENTS:
            return False
        return is_sealed(descriptor) and os.fstat(descriptor).st_size == event.size

    async def find(self, name: str) -> Segment:
        """Return the segment that a reply names; the warden's event may come a moment later.

        Raises:
            Internal: it is not there, or cannot be used.
        """
        if name not in self._known and name not in self._refused:
            waiting = self._waiting.setdefault(name, asyncio.get_running_loop().create_future())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NEWS_TIMEOUT):
                    await asyncio.shield(waiting)
            self._waiting.pop(name, None)
        segment = self._known.get(name)
        if segment is None:
            raise Internal("the session shares memory that cannot be used: not there, or not sealed")
        return segment

    def release(self, name: str, *, reusable: bool = True) -> None:
        """Give a segment up; the session must not use it again where a client may still map it."""
        self._write(encode({"segments": {"free" if reusable else "drop": [name]}}) + b"\n")

    def close(self) -> None:
        """Close every segment, since the session's process has ended."""
        for segment in self._known.values():
            segment.close(ended=True)
        self._known.clear()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
