"""Large responses, sent in pieces as fast as the client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from venvd_http.asgi import Headers
from venvd_http.clients import ClientGone
from venvd_http.connection import TRANSPORT
from venvd_http_backend.request import HttpRequest


@contextmanager
def _without_buffer(transport: asyncio.WriteTransport) -> Iterator[None]:
    """Make each write wait until the kernel has the bytes of the write before, since a sent piece may be freed."""
    transport.set_write_buffer_limits(high=0)
    try:
        yield
    finally:
        transport.set_write_buffer_limits()


async def send_pieces(
    request: HttpRequest, headers: Headers, pieces: Iterable[bytes | memoryview], stall_timeout: float
) -> None:
    """Send a response of known length; afterwards the memory of all pieces may be freed.

    Raises:
        ClientGone: the client disconnected, or left a piece unread for `stall_timeout` seconds. The connection is
            closed.
        VenvdError: `pieces` failed.
    """
    transport: asyncio.Transport = request.scope["extensions"][TRANSPORT]
    send = request.send
    with _without_buffer(transport):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in pieces:
                await send_piece(request, piece, stall_timeout)
            await send_piece(request, b"", stall_timeout)  # waits for the last piece
        except BaseException:
            transport.abort()
            raise
    await send({"type": "http.response.body", "body": b""})


async def send_piece(request: HttpRequest, piece: bytes | memoryview, stall_timeout: float) -> None:
    """Send one piece of a response.

    Raises:
        ClientGone: the client disconnected, or left the piece before unread for `stall_timeout` seconds.
    """
    try:
        async with asyncio.timeout(stall_timeout):
            await request.send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError:
        raise ClientGone from None
    if request.scope["extensions"][TRANSPORT].is_closing():
        raise ClientGone
