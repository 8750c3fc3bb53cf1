"""Local directories as tar archives, for files that a session sends and gets."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from venvd.errors import BadReply

_HAS_FILTERS = hasattr(tarfile, "FilterError")
"""Whether `tarfile` checks entries itself: from CPython 3.11.4 on. Debian 12 has 3.11.2."""


def pack(directory: Path) -> IO[bytes]:
    """Return a temporary file with the archive of a directory: its files, directories and symbolic links."""
    packed = tempfile.TemporaryFile(prefix="venvd-")  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=packed, mode="w:", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(directory.rglob("*")):
                entry = archive.gettarinfo(path, os.fspath(path.relative_to(directory)))
                if entry is not None and entry.islnk():  # a second name of a file that the archive has already
                    entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
                if entry is None or not (entry.isreg() or entry.isdir() or entry.issym()):
                    continue
                if entry.isreg():
                    with path.open("rb") as file:
                        archive.addfile(entry, file)
                else:
                    archive.addfile(entry)
        packed.seek(0)
    except BaseException:
        packed.close()
        raise
    return packed


class _LeadsOutError(Exception):
    """An entry of an archive leads out of the directory that takes it."""


_LEADS_OUT: tuple[type[Exception], ...] = (_LeadsOutError, tarfile.FilterError) if _HAS_FILTERS else (_LeadsOutError,)


def unpack(packed: Path, directory: Path) -> None:
    """Extract the archive of a session's directory into a local directory. Make the directory if it is missing.

    Raises:
        BadReply: the bytes are not an archive, or an entry leads out of the directory.
    """
    try:
        with tarfile.open(packed, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            directory.mkdir(exist_ok=True)
            if _HAS_FILTERS:
                archive.extractall(directory, _list_plain(archive), filter="data")
            else:
                archive.extractall(directory, _list_checked(archive, directory))  # noqa: S202 - they are checked
    except _LEADS_OUT as error:
        raise BadReply(
            f"the session's directory holds something that leads out of it: {error}; delete it there, or fetch the "
            "archive with get_archive() and look at it"
        ) from None
    except tarfile.TarError as error:
        raise BadReply(f"the backend sent an archive that cannot be read: {error}") from None


def _list_plain(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for entry in archive:
        if entry.issparse() or not (entry.isreg() or entry.isdir() or entry.issym()):
            raise BadReply(f"the archive of the session's directory has the entry {entry.name!a}, which is no file")
        yield entry


def _list_checked(archive: tarfile.TarFile, directory: Path) -> Iterator[tarfile.TarInfo]:
    """Check entries, and change their owner and mode, as the filter `data` of `tarfile` does.

    The check of each entry comes after the extraction of those before it. So it follows the symbolic links among them.
    """
    root = os.path.realpath(directory)
    for entry in _list_plain(archive):
        paths = [entry.name]
        if entry.issym():
            paths.append(os.path.join(os.path.dirname(entry.name), entry.linkname))  # noqa: PTH118, PTH120
        for path in paths:
            end = os.path.realpath(os.path.join(root, path))  # noqa: PTH118
            if path.startswith("/") or os.path.commonpath([root, end]) != root:
                raise _LeadsOutError(f"{entry.name!a} leads to {end!a}")
        entry.uid, entry.gid, entry.uname, entry.gname = os.getuid(), os.getgid(), "", ""
        runs = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        entry.mode = (entry.mode | 0o600) & runs
        yield entry
