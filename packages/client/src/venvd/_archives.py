"""Local directories as tar archives, for files that a session sends and gets."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from venvd.errors import BadReply


def pack(directory: Path) -> IO[bytes]:
    """Return a temporary file with the archive of a directory: its files, directories and symbolic links."""
    packed = tempfile.TemporaryFile(prefix="venvd-")  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=packed, mode="w:", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(directory.rglob("*")):
                entry = archive.gettarinfo(path, os.fspath(path.relative_to(directory)))
                if entry is not None and entry.islnk():  # another name of a file that the archive has already
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


def unpack(packed: Path, directory: Path) -> None:
    """Extract the archive of a session's directory into a local directory, which is made if it is missing.

    Raises:
        BadReply: the bytes are no archive, or an entry leads out of the directory.
    """
    try:
        with tarfile.open(packed, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            directory.mkdir(exist_ok=True)
            archive.extractall(directory, _list_plain(archive), filter="data")
    except tarfile.FilterError as error:
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
