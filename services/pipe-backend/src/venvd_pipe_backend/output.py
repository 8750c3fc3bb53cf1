"""The bytes to one client: lines, with a limit on unread ones, and arrays, which are written part by part."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from venvd_contract.errors import Cancelled
from venvd_pipe_backend import peers

log = logging.getLogger(__name__)

HIGH_WATER = 256 * 1024
"""Bytes of unread replies from which on the server reads no further request."""
RETRY_PAUSE = 0.001
"""Seconds between tries to write with a descriptor."""


class Output:
    """Writes to one client.

    Args:
        max_unread: bytes of replies that the client may leave unread.
        on_overflow: called when it leaves more.

    Attributes:
        congested: the transport holds more than `HIGH_WATER` bytes.
        blocked: lines must wait, and cannot go to the transport directly.
        written: bytes given to the transport.
    """

    def __init__(self, transport: asyncio.Transport, max_unread: int, on_overflow: Callable[[], None]) -> None:
        transport.set_write_buffer_limits(HIGH_WATER)
        self.congested = self.blocked = False
        self.written = 0
        self._transport = transport
        self._max_unread = max_unread
        self._on_overflow = on_overflow
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._lock = asyncio.Lock()
        self._waiting_lines: list[bytes] = []
        self._waiting_bytes = 0
        self._writers: list[asyncio.Future[None]] = []
        self._progress = 0
        self._progress_at = self._loop.time()

    @property
    def unread(self) -> int:
        """Bytes that the transport has not passed to the client's kernel."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write a line; if an array is being written, after the array."""
        if self.blocked and not self._may_write(data):
            return
        self.written += len(data)
        self._transport.write(data)

    def _may_write(self, data: bytes) -> bool:
        exclusive = self._lock.locked()
        if exclusive:
            self._waiting_lines.append(data)
            self._waiting_bytes += len(data)
        if self._waiting_bytes + (self.unread if self.congested else 0) > self._max_unread:
            log.warning("a client left more replies unread than VENVD_MAX_UNREAD_BYTES allows")
            self._on_overflow()
            return False
        return not exclusive

    # ---- arrays

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Keep every other line waiting while an array is written with `put` and `put_with`."""
        await self._lock.acquire()
        self.blocked = True
        try:
            yield
        finally:
            self.blocked = self.congested
            self._lock.release()
            lines, self._waiting_lines, self._waiting_bytes = self._waiting_lines, [], 0
            if lines and not self._closed:
                self.write(b"".join(lines))

    async def put(self, data: bytes | memoryview) -> None:
        """Write as soon as the client has read enough of the earlier bytes.

        Raises:
            Cancelled: the client went away.
        """
        while self.congested and not self._closed:
            writer: asyncio.Future[None] = self._loop.create_future()
            self._writers.append(writer)
            await writer
        self._check_open()
        self.written += len(data)
        self._transport.write(data)

    async def put_with(self, descriptor: int, data: bytes) -> None:
        """Write `data` with a descriptor after everything before is written.

        Raises:
            Cancelled: the client went away.
        """
        while self.unread and not self._closed:  # noqa: ASYNC110 — no event reports an empty buffer
            await asyncio.sleep(RETRY_PAUSE)
        self._check_open()
        connection: socket.socket = self._transport.get_extra_info("socket")
        sent = await peers.send_descriptor(connection.fileno(), data, descriptor, RETRY_PAUSE)
        self.written += len(data)
        if sent < len(data):
            self._transport.write(data[sent:])

    def _check_open(self) -> None:
        if self._closed:
            raise Cancelled("the client went away")

    # ---- the transport

    def pause(self) -> None:
        self.congested = self.blocked = True

    def resume(self) -> None:
        self.congested, self.blocked = False, self._lock.locked()
        self._wake_writers()

    def close(self) -> None:
        """Fail the waiting writers of arrays, and write no more."""
        self._closed = True
        self._wake_writers()

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    def find_stall(self, now: float) -> float:
        """Return the seconds since the client last read some of the waiting bytes."""
        unread = self.unread
        if not unread or self.written - unread != self._progress:
            self._progress, self._progress_at = self.written - unread, now
        return now - self._progress_at
