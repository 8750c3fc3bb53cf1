"""How much of a connection is held: what its client sends ahead, and the answers that it does not read."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn's, which reads on from a client that reads nothing."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._held = False
        """Whether uvicorn wants no more for now."""

    def pause_reading(self) -> None:
        self._held = True
        self._settle()

    def resume_reading(self) -> None:
        self._held = False
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    def _settle(self) -> None:
        if self._transport.is_closing():
            return
        if self._held or self.write_paused:
            super().pause_reading()
        else:
            super().resume_reading()


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
