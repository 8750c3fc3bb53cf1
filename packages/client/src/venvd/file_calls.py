"""The calls about files, and how a large one is moved in parts: the same for sync and async clients."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Protocol

from venvd.errors import Conflict, InvalidRequest
from venvd.flow import Flow
from venvd.records import record
from venvd.transports.base import Call, Kind
from venvd_contract.files import FileInfo, FileList

PART = 8 << 20
"""Bytes of a file in one request."""

_Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Local:
    """Work on this machine that may block."""

    do: Callable[[], Any]


Step = Call[Any] | Local
Source = _Bytes | os.PathLike[str] | IO[bytes]
Target = os.PathLike[str] | IO[bytes]


class Asker(Protocol):
    """Whose files they are."""

    @property
    def session(self) -> str | None: ...
    @property
    def timeout(self) -> float | None: ...


def _named(path: str) -> dict[str, str]:
    """A path in a request; the bytes of one that is no UTF-8, as `os.fsdecode` gives it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"pathBytes": b64encode(os.fsencode(path)).decode()}
    return {"path": path}


def _call(asker: Asker, command: str, fields: dict[str, Any], body: bytes | None = None) -> Call[Any]:
    payload = {name: value for name, value in fields.items() if value is not None}
    kind = Kind(command, lambda result: result, asker.session, repeatable=command != "file.put")
    return Call(kind, payload, asker.timeout, body)


# ---- put -------------------------------------------------------------------------------------------------------


def put(asker: Asker, path: str, source: Source, *, parents: bool) -> Flow[Step, FileInfo]:
    """Send a file, in as many parts as it takes; it is in its place when the last of them is there."""
    if isinstance(source, _Bytes):
        return (yield from _put(asker, path, _reader(source), parents=parents))
    if isinstance(source, os.PathLike):
        with (yield Local(lambda: Path(source).open("rb"))) as file:
            return (yield from _put(asker, path, file.read, parents=parents))
    if not hasattr(source, "read"):
        raise _no_source(source)
    return (yield from _put(asker, path, source.read, parents=parents))


def _no_source(found: object) -> InvalidRequest:
    return InvalidRequest(
        f"{type(found).__name__} is neither bytes nor a file: give bytes, a pathlib.Path or a file opened with 'rb'"
    )


def _reader(data: _Bytes) -> Callable[[int], bytes]:
    view, start = memoryview(data).cast("B"), 0

    def read(size: int) -> bytes:
        nonlocal start
        piece = bytes(view[start : start + size])
        start += size
        return piece

    return read


def _put(asker: Asker, path: str, read: Callable[[int], bytes], *, parents: bool) -> Flow[Step, FileInfo]:
    fields: dict[str, Any] = {**_named(path), "parents": None if parents else False}
    piece = yield Local(lambda: read(PART))
    if not isinstance(piece, bytes):
        raise _no_source(piece)
    while True:
        following = (yield Local(lambda: read(PART))) if piece else b""
        result = yield _call(asker, "file.put", {**fields, "more": bool(following)}, piece)
        if not following:
            return record(FileInfo, result)
        fields["upload"] = result["upload"]
        piece = following


# ---- get -------------------------------------------------------------------------------------------------------


def get(asker: Asker, path: str) -> Flow[Step, bytes]:
    """The bytes of a file."""
    pieces: list[bytes] = []
    yield from _fetch(asker, path, pieces.append)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def save(asker: Asker, path: str, target: Target) -> Flow[Step, FileInfo]:
    """Fetch a file into one of this machine, which is replaced when all of it is there."""
    if not isinstance(target, os.PathLike):
        if not hasattr(target, "write"):
            raise InvalidRequest(f"{type(target).__name__} is no file: give a pathlib.Path, or a file opened with 'wb'")
        return (yield from _fetch(asker, path, target.write))
    final = Path(target)
    part = final.with_name(f".{final.name[:100]}.{token_hex(4)}.part")
    try:
        with (yield Local(lambda: part.open("xb"))) as file:
            info = yield from _fetch(asker, path, file.write)
        part.replace(final)
    finally:
        part.unlink(missing_ok=True)
    return info


def _fetch(asker: Asker, path: str, write: Callable[[bytes], Any]) -> Flow[Step, FileInfo]:
    offset = 0
    seen: FileInfo | None = None
    while True:
        result = yield _call(asker, "file.get", {**_named(path), "offset": offset, "length": PART})
        data: bytes = result["attached"]
        info = record(FileInfo, {"path": path, "isDirectory": False, "kind": "file", **result})
        if seen is not None and (seen.sizeBytes, seen.modifiedAt) != (info.sizeBytes, info.modifiedAt):
            raise Conflict(f'"{path}" changed while it was read')
        seen = info
        yield Local(lambda data=data: write(data))  # type: ignore[misc]
        offset += len(data)
        if offset >= info.sizeBytes or not data:
            return info


# ---- list, delete ----------------------------------------------------------------------------------------------


def listed(asker: Asker, path: str, *, recursive: bool) -> Flow[Step, list[FileInfo]]:
    """All that is there, however many pages it takes."""
    found: list[FileInfo] = []
    fields: dict[str, Any] = {**(_named(path) if path else {}), "recursive": recursive}
    while True:
        page = record(FileList, (yield _call(asker, "file.list", fields)))
        found += page.files
        if page.next is None:
            return found
        fields["after"] = page.next


def delete(asker: Asker, path: str, *, recursive: bool) -> Flow[Step, None]:
    yield _call(asker, "file.delete", {**_named(path), "recursive": recursive})
