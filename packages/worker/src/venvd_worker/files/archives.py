"""Directories as tar archives: makes them while it sends them, and extracts them so that nothing leads outside.

An archive contains files, directories and symbolic links. The file process lays it out from the sizes of the files
before it sends anything. So it knows the length, and can send any part without the parts before.
"""

from __future__ import annotations

import os
import stat
import tarfile
from binascii import hexlify
from typing import IO, Iterator, List, NamedTuple, Optional

from venvd_contract.errors import InvalidRequest, LimitExceeded
from venvd_worker.files import paths
from venvd_worker.files.framing import FileConnection
from venvd_worker.files.listing import Scope, entries

MOST_ENTRIES = 50_000
"""The most entries of one archive."""
_CHUNK = 1 << 20
_OLD = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_END = bytes(2 * tarfile.BLOCKSIZE)


class _Entry(NamedTuple):
    """The header of an entry, and the file whose `size` bytes follow it."""

    header: bytes
    names: List[bytes]
    size: int


class Archive:
    """The archive of a directory.

    Attributes:
        size: bytes of the archive.
        modified: time of the last change of the directory or of something in it, in nanoseconds.

    Raises:
        LimitExceeded: the directory contains more than an archive may.
        InvalidRequest: the directory cannot be read.
    """

    def __init__(self, directory: int, names: List[bytes]) -> None:
        self._directory = directory
        self._entries: List[_Entry] = []
        self.size = len(_END)
        self.modified = os.fstat(directory).st_mtime_ns
        try:
            listed = paths.open_to_list(directory)
        except OSError as error:
            raise paths.explain(error, names, "directory") from None
        try:
            self._lay_out(listed, names)
        finally:
            os.close(listed)

    def _lay_out(self, listed: int, names: List[bytes]) -> None:
        for inner, file_status in entries(listed, [], Scope(True, MOST_ENTRIES, [])):
            entry = self._make_entry(inner, file_status)
            if entry is None:
                continue
            self._entries.append(entry)
            if len(self._entries) > MOST_ENTRIES:
                text = (
                    '"{}" holds more than {} entries, which is the most of an archive: fetch its directories one by one'
                )
                raise LimitExceeded(text.format(paths.show(names) or ".", MOST_ENTRIES))
            self.size += len(entry.header) + _pad(entry.size)
            self.modified = max(self.modified, file_status.st_mtime_ns)

    def _make_entry(self, names: List[bytes], file_status: os.stat_result) -> Optional[_Entry]:
        entry = tarfile.TarInfo(os.fsdecode(b"/".join(names)))
        entry.mode = file_status.st_mode & 0o777
        entry.mtime = max(0, int(file_status.st_mtime))
        kind = paths.kind_of(file_status)
        if kind == "file":
            entry.size = file_status.st_size
        elif kind == "directory":
            entry.type = tarfile.DIRTYPE
        elif kind == "link":
            target = self._read_link(names)
            if target is None:
                return None
            entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(target)
        else:
            return None
        header = entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        return _Entry(header, names, entry.size)

    def _read_link(self, names: List[bytes]) -> Optional[bytes]:
        parent = paths.open_directory(self._directory, names[:-1])
        try:
            return os.readlink(names[-1], dir_fd=parent)
        except OSError:  # replaced meanwhile
            return None
        finally:
            os.close(parent)

    def send(self, connection: FileConnection, offset: int, length: int) -> None:
        """Send bytes of the archive. If a file has changed since the layout, the bytes end early."""
        for entry in self._entries:
            for size, file in ((len(entry.header), False), (entry.size, True), (_pad(entry.size) - entry.size, False)):
                part = _Part(offset, min(size - offset, length))
                offset = max(0, offset - size)
                if part.length <= 0:
                    continue
                length -= part.length
                if not file:
                    data = entry.header if size == len(entry.header) and size >= tarfile.BLOCKSIZE else bytes(size)
                    connection.send_bytes(data[part.offset : part.offset + part.length])
                elif not self._send_file(connection, entry, part):
                    return
        connection.send_bytes(_END[offset : offset + length])

    def _send_file(self, connection: FileConnection, entry: _Entry, part: "_Part") -> bool:
        try:
            parent = paths.open_directory(self._directory, entry.names[:-1])
            try:
                file = os.open(entry.names[-1], _OLD, dir_fd=parent)
            finally:
                os.close(parent)
        except (OSError, InvalidRequest):
            return False
        try:
            file_status = os.fstat(file)
            same = stat.S_ISREG(file_status.st_mode) and file_status.st_size == entry.size
            return same and connection.send_file(file, part.offset, part.length)
        finally:
            os.close(file)


class _Part(NamedTuple):
    offset: int
    length: int


def _pad(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


# ---- extracting


def extract(archive: IO[bytes], directory: int, largest: int) -> None:
    """Check all entries of an archive, and then extract it into a directory.

    Raises:
        InvalidRequest: it is not an archive, or has a forbidden entry; says which and why.
        LimitExceeded: it has too many entries, or they are too large.
        VenvdError: an entry cannot be written; those before it stay.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:", encoding="utf-8", errors="surrogateescape") as opened:
            _check(opened, largest)
            for entry in opened.getmembers():
                names = _names(entry)
                if names:
                    _write(opened, entry, names, directory)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidRequest(
            "the bytes are no tar archive, or not all of one: {}; compressed archives are not taken".format(error)
        ) from None


def _check(archive: tarfile.TarFile, largest: int) -> None:
    size = 0
    for count, entry in enumerate(archive, 1):
        if count > MOST_ENTRIES:
            raise LimitExceeded("the archive has more than {} entries: send several archives".format(MOST_ENTRIES))
        names = _names(entry)
        if entry.issym():
            _check_link(entry, names)
        elif entry.issparse() or not (entry.isreg() or entry.isdir()):
            raise _refuse(entry, "is neither a file, a directory nor a symbolic link")
        size += entry.size if entry.isreg() else 0
        if size > largest:
            raise LimitExceeded("the files in the archive have more than {} bytes".format(largest))


def _names(entry: tarfile.TarInfo) -> List[bytes]:
    raw = os.fsencode(entry.name)
    while raw.startswith(b"./"):
        raw = raw[2:].lstrip(b"/")
    raw = raw.rstrip(b"/") if not raw.startswith(b"/") else raw
    if raw in (b"", b".") and entry.isdir():
        return []
    return paths.names_of(raw)


def _check_link(entry: tarfile.TarInfo, names: List[bytes]) -> None:
    """Check that a link leads to a place below the directory.

    Its `..` must come first. So they count from the directory of the link, which is not a link itself.
    """
    parts = entry.linkname.split("/")
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if not entry.linkname or entry.linkname.startswith("/") or ups >= len(names) or ".." in parts[ups:]:
        raise _refuse(
            entry, 'is a symbolic link to "{}", which may lead out of the directory'.format(entry.linkname[:80])
        )


def _refuse(entry: tarfile.TarInfo, why: str) -> InvalidRequest:
    return InvalidRequest('the entry "{}" of the archive {}'.format(ascii(entry.name[:200])[1:-1], why))


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, names: List[bytes], root: int) -> None:
    if entry.isdir():
        os.close(paths.open_directory(root, names, make=True))
        return
    directory = paths.open_directory(root, names[:-1], make=True)
    part = b".venvd-" + hexlify(os.urandom(8)) + b".part"
    try:
        try:
            if entry.issym():
                os.symlink(os.fsencode(entry.linkname), part, dir_fd=directory)
            else:
                _copy(_read(archive, entry), os.open(part, _NEW, 0o666 | entry.mode & 0o111, dir_fd=directory))
            os.rename(part, names[-1], src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            if paths.status(directory, part) is not None:
                os.unlink(part, dir_fd=directory)
            raise
    except OSError as error:
        file_status = paths.status(directory, names[-1])
        raise paths.explain(error, names, None if file_status is None else paths.kind_of(file_status)) from None
    finally:
        os.close(directory)


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    source = archive.extractfile(entry)
    left = entry.size
    while source is not None and left:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            raise tarfile.ReadError("unexpected end of data")
        left -= len(chunk)
        yield chunk


def _copy(chunks: Iterator[bytes], target: int) -> None:
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
    finally:
        os.close(target)
