"""Copies bytes between two connections, until both have ended or have been silent for too long."""

from __future__ import annotations

import asyncio
from typing import Any, Coroutine, Tuple

from venvd_egress import heads

Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]

SILENT_SECONDS = 300.0
_LOOK_SECONDS = 15.0


class Silence:
    """Notes the time of the last byte, and ends connections that have been silent for too long."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()

    def watch(self, reader: asyncio.StreamReader) -> WatchedReader:
        return WatchedReader(reader, self)

    def end(self) -> None:
        """A byte came."""
        self._last = self._loop.time()

    async def run(self, *copies: Coroutine[Any, Any, None], first_ends: bool = False) -> None:
        """Run copies side by side: until all have ended, or, with `first_ends`, until the first in the list has.

        Raises:
            asyncio.TimeoutError: nothing came for `SILENT_SECONDS`.
        """
        tasks = [asyncio.ensure_future(copy) for copy in copies]
        pending = set(tasks)
        try:
            while pending and not (first_ends and tasks[0].done()):
                done, pending = await asyncio.wait(pending, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not first_ends or task is tasks[0]:  # a host may answer before it has read all
                        task.result()
                if self._loop.time() - self._last > SILENT_SECONDS:
                    raise asyncio.TimeoutError
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class WatchedReader:
    """A reader that tells `Silence` of what comes."""

    def __init__(self, reader: asyncio.StreamReader, silence: Silence) -> None:
        self._reader = reader
        self._silence = silence

    async def read(self, most: int) -> bytes:
        data = await self._reader.read(most)
        self._silence.end()
        return data

    async def readexactly(self, count: int) -> bytes:
        data = await self._reader.readexactly(count)
        self._silence.end()
        return data

    async def readuntil(self, separator: bytes) -> bytes:
        data = await self._reader.readuntil(separator)
        self._silence.end()
        return data


async def tunnel(one: Streams, other: Streams) -> None:
    """Copy all bytes in both directions."""
    silence = Silence()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heads.copy_all(silence.watch(reader), writer)
        if writer.can_write_eof():
            writer.write_eof()

    await silence.run(copy(one[0], other[1]), copy(other[0], one[1]))
