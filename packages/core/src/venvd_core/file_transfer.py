"""The transfer of a session's file between its file process and a transport, at the speed of the slower of the two.

A file process runs one command on the files of a session. The server holds one piece of a file at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Protocol

import msgspec

from venvd_contract.errors import (
    Cancelled,
    Conflict,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unavailable,
    VenvdError,
    from_fields,
)
from venvd_contract.internal.file_transfer import DATA, END, ERROR, HEAD, LARGEST_ANSWER, RESULT
from venvd_contract.internal.messages import TransferFile
from venvd_core.channel import Channel
from venvd_core.link import Link
from venvd_core.wire import check_payload

PIECE = 256 * 1024
"""Bytes of a file that are read or sent at a time."""

_CODES_OF_FILES = frozenset(kind.code for kind in (Conflict, Internal, InvalidRequest, LimitExceeded, NotFound))

_FIRST_PAUSE, _LONGEST_PAUSE, _START_TIMEOUT = 0.01, 0.2, 30.0

OnEnd = Callable[[VenvdError | None, int], None]
"""Called once, with the error of a transfer or the number of bytes that it moved."""


_Size = Annotated[int, msgspec.Meta(ge=0)]


class FileFound(msgspec.Struct):
    """The result of `file.get`, which comes before the bytes."""

    info: msgspec.Raw
    offset: _Size
    length: _Size


_found = msgspec.json.Decoder(FileFound)


class FileOwner(Protocol):
    """The session that the files belong to."""

    file_transfers: int


class FileProcess:
    """The server's connection to a file process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owner: FileOwner) -> None:
        self._reader = reader
        self._writer = writer
        self._owner: FileOwner | None = owner
        owner.file_transfers += 1

    async def receive(self) -> msgspec.Raw:
        """Receive the next result: one JSON object on one line, which the server passes on unchanged.

        Raises:
            VenvdError: the command failed; the error of the file process.
            Unavailable: the file process ended.
            Internal: the file process broke the protocol.
        """
        try:
            kind, size = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            if kind not in {RESULT, ERROR} or size > LARGEST_ANSWER:
                raise Internal("the file process of the worker host sent an invalid answer")
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Unavailable("the session or its worker host ended while its files were used") from None
        if kind == ERROR:
            raise parse_error(data)
        try:
            return msgspec.Raw(check_payload(data))
        except (InvalidRequest, TooLarge):
            raise Internal("the file process of the worker host sent a result that is not a JSON object") from None

    async def receive_found(self) -> FileFound:
        """Receive the result of `file.get`.

        Raises:
            VenvdError: as `receive`.
        """
        try:
            return _found.decode(await self.receive())
        except msgspec.MsgspecError as error:
            raise Internal(f"the file process of the worker host sent an invalid result: {error}") from None

    async def receive_pieces(self, length: int) -> AsyncIterator[bytes]:
        """Yield the `length` bytes that follow a result.

        Raises:
            Conflict: the file has become shorter, or its session ended.
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
        """Send bytes as fast as the file process reads them."""
        view = memoryview(data)
        with contextlib.suppress(ConnectionError):  # `receive` raises the reason
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                self._writer.write(HEAD.pack(DATA, len(piece)))
                self._writer.write(piece)
                await self._writer.drain()

    def end_data(self) -> None:
        """Tell the file process that it has all bytes."""
        self._writer.write(HEAD.pack(END, 0))

    def close(self) -> None:
        """Close the connection; the file process undoes an unfinished command."""
        self._writer.transport.abort()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.file_transfers -= 1


def parse_error(data: bytes) -> VenvdError:
    """Make the error of a file process; codes that only the server may use become an `Internal` error."""
    try:
        error = from_fields(json.loads(data))
    except (ValueError, RecursionError, AttributeError):
        return Internal("the file process of the worker host sent an invalid error")
    if error.code not in _CODES_OF_FILES:
        return Internal(f'the file process answered with the code "{error.code}", which only the server may use')
    return error


async def start(channel: Channel, command: TransferFile, owner: FileOwner) -> FileProcess:
    """Start a file process; if the session is starting, wait for it first.

    Raises:
        Unavailable: the worker host is away, or the session does not come up.
        VenvdError: the warden refused; its error.
    """
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + _START_TIMEOUT, _FIRST_PAUSE
    while True:
        link = channel.link
        if link is None:
            raise Unavailable(f"{channel.why}; try again")
        try:
            return await _connect(link, command, owner)
        except NotFound:
            if loop.time() > until:
                raise Unavailable(f'the session "{command.session}" has no process at the moment; try again') from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _connect(link: Link, command: TransferFile, owner: FileOwner) -> FileProcess:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await link.request(command, descriptors=[theirs.fileno()])
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PIECE)
    except BaseException:
        ours.close()
        raise
    return FileProcess(reader, writer, owner)


class _Transfer:
    def __init__(self, process: FileProcess, on_end: OnEnd | None) -> None:
        self._process = process
        self._on_end = on_end

    def _report_end(self, error: VenvdError | None, size: int) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(error, size)

    def close(self) -> None:
        """Release the file process, and cancel an unfinished transfer."""
        self._process.close()
        self._report_end(Cancelled("the client disconnected or cancelled the transfer"), 0)


class Download(_Transfer):
    """A file on its way to a client.

    Attributes:
        info: `FileInfo`, as JSON.
        offset, length: the part of the file that is sent.
    """

    def __init__(self, process: FileProcess, found: FileFound, on_end: OnEnd | None) -> None:
        super().__init__(process, on_end)
        self.info, self.offset, self.length = bytes(found.info), found.offset, found.length

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes.

        Raises:
            Conflict: the file has become shorter.
        """
        try:
            async for piece in self._process.receive_pieces(self.length):
                yield piece
        except VenvdError as error:
            self._report_end(error, 0)
            raise
        self._report_end(None, self.length)


class Upload(_Transfer):
    """A file on its way to a session. `commit` replaces an older file; `close` without `commit` leaves no trace.

    Attributes:
        last_used: time of the last bytes; `time.monotonic`.
    """

    def __init__(self, process: FileProcess, on_end: OnEnd | None) -> None:
        super().__init__(process, on_end)
        self._result = asyncio.ensure_future(process.receive())
        self._size = 0
        self.last_used = time.monotonic()

    async def write(self, data: bytes | memoryview) -> None:
        """Pass bytes on.

        Raises:
            VenvdError: the file cannot be stored; says why.
        """
        self.last_used = time.monotonic()
        self._size += len(data)
        await self._process.send(data)
        if self._result.done():
            await self._finish()

    async def commit(self) -> bytes:
        """Move the complete file to its path; return its `FileInfo` as JSON.

        Raises:
            VenvdError: as `write`.
        """
        self._process.end_data()
        return await self._finish()

    async def _finish(self) -> bytes:
        try:
            info = bytes(await self._result)
        except VenvdError as error:
            self._report_end(error, 0)
            raise
        else:
            self._report_end(None, self._size)
            return info
        finally:
            self.close()

    def close(self) -> None:
        if not self._result.cancel() and not self._result.cancelled():
            self._result.exception()  # marks it as retrieved
        super().close()
