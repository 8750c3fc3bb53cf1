"""The bodies of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_http.asgi import CLOSE, ASGIApp, Headers, Message, Receive, Scope, Send
from venvd_http.clients import ClientGone
from venvd_http.heads import Head
from venvd_http.problems import refuse

SWALLOWED = 64 << 20
"""Bytes that the server still reads of a refused body, for clients that send their whole body before they read the
answer.
"""


class Body:
    """A request's body as it arrives. At most `stall_timeout` seconds may pass between two pieces.

    Attributes:
        size: bytes read so far.
        ended: whether the whole body was read.
    """

    def __init__(self, receive: Receive, stall_timeout: float) -> None:
        self._receive = receive
        self._stall_timeout = stall_timeout
        self._begun = False
        self._stalled = False
        self.size = 0
        self.ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the rest of the body, piece by piece; no piece is empty.

        Raises:
            InvalidRequest: the next piece came too late.
            ClientGone: the client closed the connection.
        """
        while not self.ended:
            piece = await self._take()
            if piece:
                yield piece

    async def read(self, limit: int) -> bytes:
        """Read the whole body.

        Raises:
            TooLarge: the body has more than `limit` bytes.
            InvalidRequest, ClientGone: as `pieces`.
        """
        parts: list[bytes] = []
        while not self.ended and self.size <= limit + SWALLOWED:
            piece = await self._take()
            if self.size <= limit:
                parts.append(piece)
        if self.size > limit:
            raise too_large(limit)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def swallow(self) -> None:
        """Read and drop the rest of the body, but at most `SWALLOWED` bytes.

        Raises:
            ClientGone: the client closed the connection.
        """
        limit = self.size + SWALLOWED
        while not (self.ended or self._stalled) and self.size < limit:
            try:
                await self._take()
            except InvalidRequest:
                return

    def choose_closing(self, head: Head) -> Headers:
        """Return the header that ends the connection, if the unread rest of the body prevents its next use."""
        if self.ended or not head.has_body:
            return ()
        waits = head.expects and not self._begun
        return () if not (waits or self._stalled) and 0 < head.length <= SWALLOWED else CLOSE

    async def _take(self) -> bytes:
        self._begun = True
        try:
            async with asyncio.timeout(self._stall_timeout):
                message = await self._receive()
        except TimeoutError:
            self._stalled = True
            raise InvalidRequest(f"the body stopped after {self.size} bytes") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self.size += len(piece)
        return piece


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than the limit of {limit} bytes")


class BodyLimit:
    """ASGI middleware: reads the whole body of each request, and refuses one that is too large or comes too slowly."""

    def __init__(self, app: ASGIApp, limit: int, stall_timeout: float) -> None:
        self._app = app
        self._limit = limit
        self._stall_timeout = stall_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(receive, self._stall_timeout)
        try:
            whole = await body.read(self._limit)
        except ClientGone:
            return
        except (TooLarge, InvalidRequest) as error:
            await refuse(send, error, headers=() if body.ended else CLOSE)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self._app(scope, replay, send)
