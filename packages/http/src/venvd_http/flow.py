"""The pace of a connection: when the server reads it, and how long a client may leave answers unread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Flow:
    """Decides when the server reads a connection. It replaces uvicorn's `FlowControl`.

    uvicorn keeps reading while an application waits for a body or for its client to disconnect. Each answered request
    would then admit more pipelined ones. This class pauses reading while the connection is full.
    """

    def __init__(self, transport: asyncio.Transport, is_full: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_full = is_full
        self._held = False
        """Whether uvicorn has paused reading."""
        self._writable = asyncio.Event()
        self._writable.set()
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        await self._writable.wait()

    def pause_reading(self) -> None:
        self._held = True
        self.update()

    def resume_reading(self) -> None:
        self._held = False
        self.update()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()
        self.update()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()
        self.update()

    def update(self) -> None:
        """Pause or resume reading. The connection calls this after each change of `is_full`."""
        paused = self._held or self._is_full()
        if paused == self.read_paused or self._transport.is_closing():
            return
        self.read_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


class UnreadTimer:
    """Ends a connection if its client reads none of the waiting bytes for `seconds`."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        unread = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._check, unread)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, unread_before: int) -> None:
        if self._transport.get_write_buffer_size() >= unread_before:
            self._transport.abort()
        else:
            self.start()
