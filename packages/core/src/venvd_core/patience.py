"""What uvicorn's connections lack: bounds on a request's head, on requests that wait for one another, and on how long
answers lie unread.

To be mixed into the class that uvicorn is given: this package knows no server, and those that have one share this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Protocol

HEAD_BYTES = 64 * 1024


class _Flow(Protocol):
    def pause_reading(self) -> None: ...


if TYPE_CHECKING:

    class _Connection(asyncio.Protocol):
        """uvicorn's, as far as it is used here."""

        loop: asyncio.AbstractEventLoop
        transport: asyncio.Transport
        flow: _Flow
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


class Patience(_Connection):
    """A request's head may have `HEAD_BYTES`, and take `stall_timeout` seconds; as long may answers lie unread."""

    stall_timeout = 60.0

    _head = 0
    _due: asyncio.TimerHandle | None = None
    """Set while a head is waited for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._unread = Unread(self.transport, self.stall_timeout)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unread.stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.stop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._due is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._due is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:  # uvicorn would read further ones behind those that wait
            self.flow.pause_reading()

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
