"""Bodies that are too large to be held: sent and received in pieces, at the pace of whoever is slower."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_core.monitor import Headers, Receive, Scope, Send
from venvd_http_backend.incoming import SWALLOWED, ClientGone, Head

_log = logging.getLogger(__name__)

TRANSPORT = "venvd.transport"
"""The ASGI extension under which a request finds the transport of its connection."""


@contextmanager
def _nothing_held_back(transport: asyncio.WriteTransport) -> Iterator[None]:
    """While this lasts, a write that the kernel does not take whole stops the next one: pieces are not the server's
    own, and may be gone once they are sent.
    """
    transport.set_write_buffer_limits(high=0)
    try:
        yield
    finally:
        transport.set_write_buffer_limits()


async def send_pieces(
    scope: Scope, send: Send, headers: Headers, pieces: Iterable[bytes | memoryview], patience: float
) -> None:
    """Send a response of known length; when this returns, no piece is needed any more.

    Raises:
        ClientGone: the connection is closed, with nobody to answer on it: the client went away, or left a piece unread
            for `patience` seconds, or the next piece could not be had.
    """
    transport: asyncio.Transport = scope["extensions"][TRANSPORT]["transport"]
    with _nothing_held_back(transport):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in pieces:
                await _send_piece(transport, send, piece, patience)
            await _send_piece(transport, send, b"", patience)  # which waits for the last of them
        except VenvdError as error:
            transport.abort()
            _log.warning("a response broke off: %s", error.message)
            raise ClientGone from error
        except BaseException:
            transport.abort()
            raise
    await send({"type": "http.response.body", "body": b""})


async def _send_piece(transport: asyncio.Transport, send: Send, piece: bytes | memoryview, patience: float) -> None:
    try:
        async with asyncio.timeout(patience):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError:
        raise ClientGone from None
    if transport.is_closing():
        raise ClientGone


class Body:
    """A request's body as it comes, in pieces; between two of them at most `patience` seconds pass.

    Attributes:
        begun, ended: whether any of it, and all of it, was taken.
    """

    def __init__(self, receive: Receive, patience: float) -> None:
        self._receive = receive
        self._patience = patience
        self._size = 0
        self._stopped = False
        self.begun = False
        self.ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """What is still to come.

        Raises:
            InvalidRequest: it stopped coming.
            ClientGone: the client closed the connection.
        """
        while not self.ended:
            piece = await self._next()
            if piece:
                yield piece

    async def _next(self) -> bytes:
        self.begun = True
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            self._stopped = True
            raise InvalidRequest(f"the body stopped coming after {self._size} bytes") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self._size += len(piece)
        return piece

    def can_be_left(self, head: Head) -> bool:
        """Whether the connection can carry another request though not all of this one's body was taken."""
        if self.ended or not head.has_body:
            return True
        waits = head.expects and not self.begun
        return not (waits or self._stopped) and 0 < head.length <= SWALLOWED
