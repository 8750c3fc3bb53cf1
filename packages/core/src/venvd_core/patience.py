"""What uvicorn's connections lack: bounds on a request's head, on requests that wait for one another, and on how long
answers lie unread.

To be mixed into the class that uvicorn is given: this package knows no server, and those that have one share this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any

HEAD_BYTES = 64 * 1024
PIPELINED = 8
"""Requests that may stand behind one that is not answered before nothing more is parsed."""
PIECE = 16 * 1024
"""Bytes that are parsed at once: what is read at once may be thousands of requests, each of which, once parsed, takes a
hundred times its bytes.
"""


class Flow:
    """Whether a connection is read. It stands where uvicorn keeps its own, and has what uvicorn uses of that.

    Whoever waits for a request's body, or for its client to leave, has uvicorn read on, and so each request that is
    answered would let in more of those behind it: here a connection that is full is not read, whoever asks.
    """

    def __init__(self, transport: asyncio.Transport, full: Callable[[], bool]) -> None:
        self._transport = transport
        self._full = full
        self._held = False
        """Whether uvicorn wants no more for now."""
        self._writable = asyncio.Event()
        self._writable.set()
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        await self._writable.wait()

    def pause_reading(self) -> None:
        self._held = True
        self.settle()

    def resume_reading(self) -> None:
        self._held = False
        self.settle()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()
        self.settle()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()
        self.settle()

    def settle(self) -> None:
        """To be called where what makes the connection full has changed."""
        paused = self._held or self._full()
        if paused == self.read_paused or self._transport.is_closing():
            return
        self.read_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


if TYPE_CHECKING:

    class _Connection(asyncio.Protocol):
        """uvicorn's, as far as it is used here."""

        loop: asyncio.AbstractEventLoop
        transport: asyncio.Transport
        flow: Flow
        pipeline: Sized

        def on_message_begin(self) -> None: ...
        def on_headers_complete(self) -> None: ...
        def on_response_complete(self) -> None: ...
else:
    _Connection = object


class Unread:
    """Ends a connection on which answers lie unread and nothing of them goes out for `within` seconds."""

    def __init__(self, transport: asyncio.Transport, within: float) -> None:
        self._transport = transport
        self._within = within
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        left = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._within, self._look, left)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        if self._transport.get_write_buffer_size() >= before:
            self._transport.abort()
        else:
            self.watch()


class Paced(_Connection):
    """What is read and parsed ahead of the answers, and what waits to be sent, is bounded; answers may lie unread for
    `stall_timeout` seconds.
    """

    stall_timeout = 60.0

    _unparsed = b""
    """What was read and has to wait."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flow = Flow(self.transport, self._full)
        self._unread = Unread(self.transport, self.stall_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.stop()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if self.transport.is_closing():
                return
            if self._full():
                self._unparsed += data[start:]
                self.flow.settle()
                return
            self._parse(data[start : start + PIECE])

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.pipeline:  # uvicorn stops reading here, and who does not read does not see the client leave either
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._go_on()

    def _parse(self, piece: bytes) -> None:
        super().data_received(piece)

    def _full(self) -> bool:
        return bool(self._unparsed) or len(self.pipeline) >= PIPELINED or self.flow.write_paused

    def _go_on(self) -> None:
        unparsed, self._unparsed = self._unparsed, b""
        if unparsed:
            self.data_received(unparsed)
        self.flow.settle()


class Patience(Paced):
    """A request's head may have `HEAD_BYTES`, and take `stall_timeout` seconds."""

    _head = 0
    _due: asyncio.TimerHandle | None = None
    """Set while a head is waited for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._due is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _parse(self, piece: bytes) -> None:
        super()._parse(piece)
        if self._due is not None:
            self._head += len(piece)
            if self._head > HEAD_BYTES + PIECE:  # the first piece may have had others in front
                self.transport.abort()

    def _wait_for_head(self) -> None:
        self._head = 0
        self._due = self.loop.call_later(self.stall_timeout, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def patient(connection: type[Any], stall_timeout: float) -> type[Any]:
    """Uvicorn's class of connections with this in front of it."""
    return type("Connection", (Patience, connection), {"stall_timeout": stall_timeout})
