"""Changes of a container as a layer. Code of packages may have written them, so this treats them only as data."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from venvd_contract.errors import InvalidRequest
from venvd_engines.kubernetes.packing import Layer, pack

ARCHIVE, REMOVED = "changes.tar", "removed.json"
MAX_REMOVED_BYTES = 8 << 20
_WHITEOUT = ".wh."
_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)


def write_changes(folder: Path, out: BinaryIO) -> Layer:
    """Write the changes that a folder describes as a layer, with a whiteout for each removed path.

    The same changes give the same layer, bit for bit.

    Raises:
        InvalidRequest: the folder does not describe the changes of an installation.
    """
    try:
        return _write(folder, out)
    except (OSError, ValueError, TypeError, tarfile.TarError) as error:
        raise InvalidRequest(f"the installation of Debian packages left no list of its changes: {error}") from None


def _write(folder: Path, out: BinaryIO) -> Layer:
    with _open(folder / REMOVED) as file:
        removed = [_split(path[1:]) for path in json.loads(file.read(MAX_REMOVED_BYTES))]
    with _open(folder / ARCHIVE) as file, tarfile.open(fileobj=file, mode="r:") as changes:
        members = {_split(member.name): member for member in changes.getmembers()}

        def fill(layer: tarfile.TarFile) -> None:
            for parts in sorted({*members, *removed}):
                if parts not in members:
                    *parents, name = parts
                    layer.addfile(tarfile.TarInfo("/".join((*parents, f"{_WHITEOUT}{name}"))))
                    continue
                entry = _copy(members[parts], parts)
                if entry.islnk() and not (members.get(_split(entry.linkname)) or entry).isreg():
                    raise ValueError(f"{entry.name} is a link to nothing")
                layer.addfile(entry, changes.extractfile(members[parts]) if entry.isreg() else None)

        return pack(out, fill)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file. Refuse a link, and do not wait at a pipe."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        yield file


def _split(path: str) -> tuple[str, ...]:
    """Split a path below the root.

    Raises:
        ValueError: the path leads elsewhere, or an unpacker would take it for a whiteout.
    """
    parts = tuple(path.split("/"))
    if any(part in {"", ".", ".."} or part.startswith(_WHITEOUT) or "\0" in part for part in parts):
        raise ValueError(f"{path[:200]!r} is no path")
    return parts


def _copy(member: tarfile.TarInfo, parts: tuple[str, ...]) -> tarfile.TarInfo:
    """Copy what a layer keeps of a member: kind, owner, mode, time and the size of its content."""
    if member.type not in _KINDS:
        raise ValueError(f"{member.name} is a device")
    entry = tarfile.TarInfo("/".join(parts))
    entry.type = tarfile.REGTYPE if member.isreg() else member.type
    entry.mode, entry.uid, entry.gid = member.mode & 0o7777, member.uid, member.gid
    entry.mtime = int(member.mtime)
    entry.size = member.size if member.isreg() else 0
    entry.linkname = member.linkname if member.issym() or member.islnk() else ""
    return entry
