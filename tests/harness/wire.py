"""The end of a connection that a server's protocol writes to, where a test is the client."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire(asyncio.Transport):
    """Keeps what the server writes.

    Args:
        peer: the address of the client.
        unread: whether what was written counts as not sent yet.

    Attributes:
        read: whether the server takes more bytes.
        closed: whether the server has closed the connection.
        written: all that it wrote.
        answered: set once there is a body.
        ended: set once the connection is closed.
    """

    def __init__(self, peer: str | None = None, *, unread: bool = False) -> None:
        super().__init__({} if peer is None else {"peername": (peer, 50000), "sockname": ("127.0.0.1", 5678)})
        self._unread = unread
        self.read, self.closed, self.written = True, False, bytearray()
        self.answered, self.ended = asyncio.Event(), asyncio.Event()

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True

    def write(self, data: Any) -> None:
        if self.closed:
            return
        self.written += bytes(data)
        if self.written.partition(b"\r\n\r\n")[2]:
            self.answered.set()

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self._unread else 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.ended.set()

    abort = close
