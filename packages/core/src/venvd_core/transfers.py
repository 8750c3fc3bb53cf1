"""A file under way between a file process and a transport, as fast as the slower of the two, never held whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from venvd_contract.errors import Cancelled, VenvdError
from venvd_core.file_transfer import FileTransfer

Over = Callable[[VenvdError | None, int], None]
"""Told once what came of a transfer, and how many bytes it moved."""


class Got(msgspec.Struct):
    """What a file process says of a file before its bytes."""

    info: msgspec.Raw
    offset: int
    length: int


class _Transfer:
    def __init__(self, connection: FileTransfer, over: Over) -> None:
        self._connection = connection
        self._over: Over | None = over

    def _tell(self, error: VenvdError | None, size: int) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(error, size)

    def close(self) -> None:
        """Let go of it; where it was not whole, it is given up."""
        self._connection.close()
        self._tell(Cancelled("the client went away, or gave the file up"), 0)


class Download(_Transfer):
    """A file that is fetched.

    Attributes:
        info: `FileInfo`, as JSON.
        offset, length: which bytes come.
    """

    def __init__(self, connection: FileTransfer, over: Over, got: Got) -> None:
        super().__init__(connection, over)
        self.info, self.offset, self.length = bytes(got.info), got.offset, got.length

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes.

        Raises:
            Conflict: the file has become shorter meanwhile.
        """
        try:
            async for piece in self._connection.pieces(self.length):
                yield piece
        except VenvdError as error:
            self._tell(error, 0)
            raise
        self._tell(None, self.length)


class Upload(_Transfer):
    """A file that is sent. Until `commit` what was in its place stays; `close` without it leaves no trace."""

    def __init__(self, connection: FileTransfer, over: Over) -> None:
        super().__init__(connection, over)
        self._stored = asyncio.ensure_future(connection.answer())
        self._size = 0
        self.used = time.monotonic()

    async def write(self, data: bytes | memoryview) -> None:
        """Pass bytes on.

        Raises:
            VenvdError: the file cannot be stored; says why.
        """
        self.used = time.monotonic()
        self._size += len(data)
        await self._connection.send(data)
        if self._stored.done():
            await self._end()

    async def commit(self) -> bytes:
        """The file is whole: put it in its place. Returns `FileInfo`, as JSON.

        Raises:
            VenvdError: as `write`.
        """
        self._connection.end()
        return await self._end()

    async def _end(self) -> bytes:
        try:
            found = bytes(await self._stored)
        except VenvdError as error:
            self._tell(error, 0)
            raise
        else:
            self._tell(None, self._size)
            return found
        finally:
            self.close()

    def close(self) -> None:
        if not self._stored.cancel() and not self._stored.cancelled():
            self._stored.exception()  # marks it as retrieved: it was reported, or no caller waits any more
        super().close()
