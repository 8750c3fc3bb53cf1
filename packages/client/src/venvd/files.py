"""The files of a session's working directory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from venvd import file_calls
from venvd.file_calls import Asker, Local, Source, Step, Target
from venvd.flow import Flow, drive, drive_async
from venvd.transports.base import Call
from venvd_contract.files import FileInfo

T = TypeVar("T")


class Files:
    """Files of one session. Paths are relative to its working directory, with slashes; no link is followed.

    They work while the session's code runs. What is larger than a few megabytes moves in parts and is never held whole,
    but by `get`. All methods raise the errors of `venvd.errors`.
    """

    def __init__(self, asker: Asker, run: Callable[[Call[Any]], Any]) -> None:
        self._asker = asker
        self._run = run

    def put(self, path: str, source: Source, *, parents: bool = True) -> FileInfo:
        """Send a file: bytes, a `pathlib.Path` of this machine, or a file opened in binary mode.

        What is there already is replaced in one step at the end. Directories on the way are made, unless `parents` is
        false.
        """
        return self._drive(file_calls.put(self._asker, path, source, parents=parents))

    def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return self._drive(file_calls.get(self._asker, path))

    def save(self, path: str, target: Target) -> FileInfo:
        """Fetch a file into a `pathlib.Path` of this machine, or into a file opened in binary mode."""
        return self._drive(file_calls.save(self._asker, path, target))

    def list(self, path: str = "", *, recursive: bool = False) -> list[FileInfo]:
        """What is in a directory, by name; with `recursive`, also all that is below it."""
        return self._drive(file_calls.listed(self._asker, path, recursive=recursive))

    def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or an empty directory; with `recursive`, a directory with all that is in it."""
        self._drive(file_calls.delete(self._asker, path, recursive=recursive))

    def _drive(self, flow: Flow[Step, T]) -> T:
        return drive(flow, lambda step: step.do() if isinstance(step, Local) else self._run(step))


class AsyncFiles:
    """The same for asyncio; files of this machine are read and written in threads."""

    def __init__(self, asker: Asker, run: Callable[[Call[Any]], Awaitable[Any]]) -> None:
        self._asker = asker
        self._run = run

    async def put(self, path: str, source: Source, *, parents: bool = True) -> FileInfo:
        """Send a file, as `Files.put`."""
        return await self._drive(file_calls.put(self._asker, path, source, parents=parents))

    async def get(self, path: str) -> bytes:
        """The bytes of a file."""
        return await self._drive(file_calls.get(self._asker, path))

    async def save(self, path: str, target: Target) -> FileInfo:
        """Fetch a file, as `Files.save`."""
        return await self._drive(file_calls.save(self._asker, path, target))

    async def list(self, path: str = "", *, recursive: bool = False) -> list[FileInfo]:
        """What is in a directory, as `Files.list`."""
        return await self._drive(file_calls.listed(self._asker, path, recursive=recursive))

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or directory, as `Files.delete`."""
        await self._drive(file_calls.delete(self._asker, path, recursive=recursive))

    async def _drive(self, flow: Flow[Step, T]) -> T:
        return await drive_async(flow, self._perform)

    async def _perform(self, step: Step) -> Any:
        return await (asyncio.to_thread(step.do) if isinstance(step, Local) else self._run(step))
