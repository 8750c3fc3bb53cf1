"""The files of a session's working directory."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import IO, Any, overload

from venvd._archives import pack, unpack
from venvd._calls import SessionCalls
from venvd._json_dataclasses import from_json
from venvd._transports.base import AsyncRun, Call, Kind
from venvd.errors import Conflict, InvalidRequest
from venvd_contract.files import FileInfo, FileList

PART = 8 << 20
"""Bytes of a file in one request."""

_Bytes = bytes | bytearray | memoryview
Source = _Bytes | str | os.PathLike[str] | IO[bytes]
Target = str | os.PathLike[str] | IO[bytes]


class AsyncFiles:
    """The files of one session. Paths are relative to its working directory and use slashes. They follow no links.

    All methods work while the session's code runs. Large files move in parts. Only `get` keeps a whole file in memory.
    All methods raise the errors of `venvd.errors`.
    """

    def __init__(self, calls: SessionCalls, run_call: AsyncRun) -> None:
        self._calls = calls
        self._run_call = run_call

    async def put(self, path: str, source: Source, *, parents: bool = True) -> FileInfo:
        """Send a file or a directory.

        A new file replaces an old one in one step, after its last byte has come. The content of a local directory goes
        into the directory `path`, beside its existing files.

        Args:
            path: the path in the session.
            source: bytes, a local path, or a file opened in binary mode.
            parents: whether to make missing directories on the way.
        """
        local = _find_local(source)
        if local is not None and local.is_dir():
            with await asyncio.to_thread(pack, local) as file:
                return await self._send(path, file.read, parents=parents, archive=True)
        return await self._put(path, source, parents=parents)

    async def put_archive(self, path: str, source: Source, *, parents: bool = True) -> FileInfo:
        """Send a tar archive, and extract it into the directory `path`; `"."` is the working directory.

        The archive may contain files, directories, and symbolic links that lead to a place below the directory. The
        session checks all entries before it writes the first one. The archive must not be compressed.

        Args:
            path: the directory. The session makes it if it is missing.
            source: the archive: bytes, a local path, or a file opened in binary mode.
            parents: whether to make missing directories on the way.
        """
        return await self._put(path, source, parents=parents, archive=True)

    @overload
    async def get(self, path: str) -> bytes: ...

    @overload
    async def get(self, path: str, target: Target) -> FileInfo: ...

    async def get(self, path: str, target: Target | None = None) -> bytes | FileInfo:
        """Return the bytes of a file, or save a file or a directory in the local `target`, as `save` does."""
        if target is not None:
            return await self.save(path, target)
        parts: list[bytes] = []
        await self._fetch(path, parts.append)
        return b"".join(parts)

    async def get_archive(self, path: str = ".") -> bytes:
        """Return the content of a directory as a tar archive; `"."` is the working directory."""
        parts: list[bytes] = []
        info = await self._fetch(path, parts.append, archive=True)
        if not info.isDirectory:
            raise InvalidRequest(f'"{path}" is no directory: get() returns the bytes of a file')
        return b"".join(parts)

    async def save(self, path: str, target: Target) -> FileInfo:
        """Fetch a file or a directory.

        This replaces a local file in one step, after the last byte has come. The content of a directory goes into the
        local directory `target`, which this makes if it is missing. It writes no file outside of it.

        Args:
            path: the path of the file or directory.
            target: a local path, or, for a file, a file opened in binary mode.
        """
        if not isinstance(target, str | os.PathLike):
            if not hasattr(target, "write"):
                raise InvalidRequest(
                    f"{type(target).__name__} is no file: give a local path, or a file opened with 'wb'"
                )
            return await self._fetch(path, target.write)
        final = Path(target)
        partial = final.with_name(f".{final.name[:100]}.{token_hex(4)}.part")
        try:
            with await asyncio.to_thread(partial.open, "xb") as file:
                info = await self._fetch(path, file.write, archive=True)
            if info.isDirectory:
                await asyncio.to_thread(unpack, partial, final)
            else:
                await asyncio.to_thread(_put_in_place, partial, final, PurePosixPath(path).name)
        finally:
            partial.unlink(missing_ok=True)
        return info

    async def list(self, path: str = "", *, recursive: bool = False) -> list[FileInfo]:
        """List a directory by name. `recursive` also lists everything below it."""
        files: list[FileInfo] = []
        fields: dict[str, Any] = {**(_path_fields(path) if path else {}), "recursive": recursive}
        while True:
            page = from_json(FileList, await self._run("file.list", fields))
            files += page.files
            if page.next is None:
                return files
            fields["after"] = page.next

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or an empty directory. `recursive` also deletes what a directory contains."""
        await self._run("file.delete", {**_path_fields(path), "recursive": recursive})

    async def _run(self, command: str, fields: dict[str, Any], body: bytes | None = None) -> Any:
        payload = {name: value for name, value in fields.items() if value is not None}
        kind = Kind(command, lambda result: result, self._calls.session, repeatable=command != "file.put")
        return await self._run_call(Call(kind, payload, self._calls.timeout, body))

    async def _put(self, path: str, source: Source, *, parents: bool, archive: bool = False) -> FileInfo:
        local = _find_local(source)
        if local is not None:
            with await asyncio.to_thread(local.open, "rb") as file:
                return await self._send(path, file.read, parents=parents, archive=archive)
        if isinstance(source, _Bytes):
            return await self._send(path, _part_reader(source), parents=parents, archive=archive)
        read = getattr(source, "read", None)
        if read is None:
            raise _refuse_source(source)
        return await self._send(path, read, parents=parents, archive=archive)

    async def _send(self, path: str, read: Callable[[int], bytes], *, parents: bool, archive: bool = False) -> FileInfo:
        fields: dict[str, Any] = {
            **_path_fields(path),
            "parents": None if parents else False,
            "archive": archive or None,
        }
        part = await asyncio.to_thread(read, PART)
        if not isinstance(part, bytes):
            raise _refuse_source(part)
        while True:
            following = await asyncio.to_thread(read, PART) if part else b""
            result = await self._run("file.put", {**fields, "more": bool(following)}, part)
            if not following:
                return from_json(FileInfo, result)
            fields["upload"] = result["upload"]
            part = following

    async def _fetch(self, path: str, write: Callable[[bytes], Any], *, archive: bool = False) -> FileInfo:
        fields: dict[str, Any] = {**_path_fields(path), "length": PART, "archive": archive or None}
        offset = 0
        first: FileInfo | None = None
        while True:
            result = await self._run("file.get", {**fields, "offset": offset})
            data: bytes = result["attached"]
            info = from_json(FileInfo, {"path": path, "isDirectory": False, "kind": "file", **result})
            first = first or info
            if (first.sizeBytes, first.modifiedAt) != (info.sizeBytes, info.modifiedAt):
                raise Conflict(f'"{path}" changed while it was read')
            await asyncio.to_thread(write, data)
            offset += len(data)
            if offset >= info.sizeBytes or not data:
                return info


def _path_fields(path: str) -> dict[str, str]:
    """Return the fields that name a path. A path from `os.fsdecode` that is not UTF-8 goes as bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"pathBytes": b64encode(os.fsencode(path)).decode()}
    return {"path": path}


def _part_reader(data: _Bytes) -> Callable[[int], bytes]:
    view, start = memoryview(data).cast("B"), 0

    def read(size: int) -> bytes:
        nonlocal start
        part = bytes(view[start : start + size])
        start += size
        return part

    return read


def _put_in_place(partial: Path, final: Path, name: str) -> None:
    """Rename a fetched file to its final name. If that is a directory, rename it to `name` in the directory."""
    partial.replace(final / name if final.is_dir() else final)


def _find_local(source: object) -> Path | None:
    """Return the local path that a source names, or None if the source contains the bytes.

    Raises:
        InvalidRequest: a text names no local file.
    """
    if isinstance(source, str) and not Path(source).exists():
        raise InvalidRequest(
            f'there is no local file "{source[:200]}"; to send a text itself, encode it: text.encode()'
        )
    return Path(source) if isinstance(source, str | os.PathLike) else None


def _refuse_source(source: object) -> InvalidRequest:
    return InvalidRequest(
        f"{type(source).__name__} is neither bytes nor a file: give bytes, a local path or a file opened with 'rb'"
    )
