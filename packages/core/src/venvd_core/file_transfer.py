"""The server's connection to a file process, which runs one command on the files of a session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from venvd_contract.errors import Conflict, Internal, NotFound, Unavailable, VenvdError, from_fields
from venvd_contract.internal.file_transfer import DATA, END, ERROR, HEAD, LARGEST_ANSWER, RESULT
from venvd_contract.internal.messages import TransferFile
from venvd_core.channel import Channel, Link

PIECE = 256 * 1024
"""Bytes of a file that are read or sent at a time."""

_FIRST_PAUSE, _LONGEST_PAUSE, _START_WITHIN = 0.01, 0.2, 30.0


class User(Protocol):
    """Whose files they are."""

    file_transfers: int


class FileTransfer:
    """One file command under way; the server holds no more of a file than one piece."""

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
            VenvdError: the file process failed; its own error.
            Unavailable: it went away.
        """
        try:
            kind, size = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            if kind not in {RESULT, ERROR} or size > LARGEST_ANSWER:
                raise Internal("the file process of the worker host sent an invalid answer")
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
        """Send bytes, as fast as the file process takes them."""
        view = memoryview(data)
        with contextlib.suppress(ConnectionError):  # its answer says why
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                self._writer.write(HEAD.pack(DATA, len(piece)))
                self._writer.write(piece)
                await self._writer.drain()

    def end(self) -> None:
        """All bytes were sent."""
        self._writer.write(HEAD.pack(END, 0))

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
        return Internal("the file process of the worker host sent an invalid error")


async def start(channel: Channel, command: TransferFile) -> FileTransfer:
    """Start a file process for a session, whose own process may be about to start.

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
            return await _connect(link, command)
        except NotFound:
            if loop.time() > end:
                raise Unavailable(f'the session "{command.session}" has no process at the moment; try again') from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _connect(link: Link, command: TransferFile) -> FileTransfer:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await link.request(command, descriptors=[theirs.fileno()])
        ours.setblocking(False)
        return FileTransfer(*await asyncio.open_unix_connection(sock=ours, limit=PIECE))
    except BaseException:
        ours.close()
        raise
