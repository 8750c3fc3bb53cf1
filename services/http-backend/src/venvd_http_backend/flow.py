"""How much is read of a client that does not read."""

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
