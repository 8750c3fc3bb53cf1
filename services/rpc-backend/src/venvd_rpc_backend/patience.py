"""uvicorn's connection, with what it lacks: bounds on a request's head, and on requests that wait for one another."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """One connection: a request's head may have `HEAD_BYTES`, and `head_within` seconds to come in."""

    head_within = 60.0

    _head = 0
    _due: asyncio.TimerHandle | None = None
    """Set while a head is waited for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

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
        self._due = self.loop.call_later(self.head_within, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
