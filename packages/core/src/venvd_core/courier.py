"""The server's end of a courier: the process that the warden sends to a session's files (docs/architecture.md)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from venvd_contract.errors import Conflict, Internal, NotFound, Unavailable, VenvdError, from_fields
from venvd_core.channel import Channel, Link

RESULT, ERROR, DATA, END = b"r", b"e", b"d", b"z"
PIECE = 256 * 1024
"""Bytes of a file that are read, or sent to a courier, at a time."""

_HEAD = struct.Struct("!cI")
_LARGEST_ANSWER = 32 << 20
_FIRST_PAUSE, _LONGEST_PAUSE, _START_WITHIN = 0.01, 0.2, 30.0


class User(Protocol):
    """Whose files they are."""

    file_transfers: int


class Courier:
    """One courier; nothing of a file is held here but the piece that is under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._user: User | None = None

    def work_for(self, user: User) -> None:
        """Count as use of a session until it is closed."""
        self._user = user
        user.file_transfers += 1

    async def answer(self) -> msgspec.Raw:
        """The next result.

        Raises:
            VenvdError: what the courier answered.
            Unavailable: it went away.
        """
        try:
            kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if kind not in {RESULT, ERROR} or size > _LARGEST_ANSWER:
                raise Internal("the courier of the worker host answered what is no answer")
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Unavailable("the session or its worker host ended while its files were used") from None
        if kind == ERROR:
            raise _told(data)
        return msgspec.Raw(data)

    async def pieces(self, length: int) -> AsyncIterator[bytes]:
        """The `length` bytes that follow a result.

        Raises:
            Conflict: the file has become shorter meanwhile, or its session ended.
        """
        while length:
            try:
                piece = await self._reader.read(min(PIECE, length))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Conflict(f"the file changed while it was read: {length} bytes are missing")
            length -= len(piece)
            yield piece

    async def send(self, data: bytes | memoryview) -> None:
        """Pass bytes on, as fast as the courier takes them."""
        view = memoryview(data)
        with contextlib.suppress(ConnectionError):  # its answer says why
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                self._writer.write(_HEAD.pack(DATA, len(piece)))
                self._writer.write(piece)
                await self._writer.drain()

    def end(self) -> None:
        """All bytes were sent."""
        self._writer.write(_HEAD.pack(END, 0))

    def close(self) -> None:
        """Let go of it; what it had not finished it undoes."""
        self._writer.transport.abort()
        user, self._user = self._user, None
        if user is not None:
            user.file_transfers -= 1


def _told(data: bytes) -> VenvdError:
    try:
        return from_fields(json.loads(data))
    except (ValueError, RecursionError, AttributeError):
        return Internal("the courier of the worker host answered what is no error")


async def send(channel: Channel, session: str, task: dict[str, Any]) -> Courier:
    """A courier that does `task` in the directory of a session, whose process may be about to start.

    Raises:
        Unavailable: the worker host is away, or the session does not come up.
        VenvdError: what the warden answered.
    """
    loop = asyncio.get_running_loop()
    end, pause = loop.time() + _START_WITHIN, _FIRST_PAUSE
    while True:
        link = channel.link
        if link is None:
            raise Unavailable(f"{channel.why}; try again")
        try:
            return await _connected(link, session, task)
        except NotFound:
            if loop.time() > end:
                raise Unavailable(f'the session "{session}" has no process at the moment; try again') from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _connected(link: Link, session: str, task: dict[str, Any]) -> Courier:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await link.request("courier", descriptors=[theirs.fileno()], session=session, task=task)
        ours.setblocking(False)
        return Courier(*await asyncio.open_unix_connection(sock=ours, limit=PIECE))
    except BaseException:
        ours.close()
        raise
