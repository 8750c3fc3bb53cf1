"""Runs the commands on the files of a session."""

from __future__ import annotations

import base64
import datetime as dt
import errno
import os
import stat
from binascii import hexlify
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from venvd_contract.errors import InvalidRequest, LimitExceeded, NotFound
from venvd_worker.files import paths
from venvd_worker.files.archives import Archive, extract
from venvd_worker.files.framing import FileConnection
from venvd_worker.files.listing import Scope, entries

MOST_ENTRIES = 10_000
_USUAL_ENTRIES = 1000
_MOST_PATH_BYTES = 2 << 20
_CHUNK = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a FIFO would block without its writer


class SizeLimit(NamedTuple):
    """The largest size of a file that a client sends, and the name of the setting or limit that sets it."""

    bytes: int
    name: str


class FileCommands:
    """Runs commands below `root`. Each command answers over `connection`."""

    def __init__(self, root: int, connection: FileConnection, size_limit: SizeLimit) -> None:
        self._root = root
        self._connection = connection
        self._size_limit = size_limit
        self.table: Dict[str, Callable[[Dict[str, Any]], Any]] = {
            "file.get": self.get,
            "file.put": self.put,
            "file.list": self.list,
            "file.delete": self.delete,
        }

    # ---- get

    def get(self, asked: Dict[str, Any]) -> None:
        """Answer with `{info, offset, length}`, then with `length` bytes."""
        offset, length = _whole(asked, "offset") or 0, _whole(asked, "length")
        archived = self._find_archived(asked) if asked["archive"] is True else None
        if archived is not None:
            self._send_archive(archived, offset, length)
            return
        names = _names(asked)
        file = self._open(names)
        try:
            file_status = os.fstat(file)
            if not stat.S_ISREG(file_status.st_mode):
                raise InvalidRequest('"{}" is no file: it is {}'.format(paths.show(names), _what(file_status)))
            length = _limit_length(file_status.st_size, offset, length)
            self._connection.result({"info": _info(names, file_status), "offset": offset, "length": length})
            self._connection.send_file(file, offset, length)
        finally:
            os.close(file)

    def _find_archived(self, asked: Dict[str, Any]) -> Optional[List[bytes]]:
        """Return the names of the directory to send as an archive, or None if the path names something else."""
        if _is_root(asked):
            return []
        names = _names(asked)
        parent = paths.open_directory(self._root, names[:-1])
        try:
            return names if _kind(parent, names[-1]) == "directory" else None
        finally:
            os.close(parent)

    def _send_archive(self, names: List[bytes], offset: int, length: Optional[int]) -> None:
        directory = paths.open_directory(self._root, names)
        try:
            archive = Archive(directory, names)
            info = _info(names, os.fstat(directory), archive.modified)
            info["sizeBytes"] = archive.size
            length = _limit_length(archive.size, offset, length)
            self._connection.result({"info": info, "offset": offset, "length": length})
            archive.send(self._connection, offset, length)
        finally:
            os.close(directory)

    def _open(self, names: List[bytes]) -> int:
        directory = paths.open_directory(self._root, names[:-1])
        try:
            return os.open(names[-1], _OLD, dir_fd=directory)
        except OSError as error:
            raise paths.explain(error, names, _kind(directory, names[-1])) from None
        finally:
            os.close(directory)

    # ---- put

    def put(self, asked: Dict[str, Any]) -> None:
        """Answer with `{}` when ready for the data, and with the file's info when the whole file is in its place."""
        if asked["archive"] is True:
            self._put_archive(asked)
            return
        names = _names(asked)
        directory = paths.open_directory(self._root, names[:-1], make=asked["parents"] is not False)
        try:
            self._store(directory, names, _whole(asked, "sizeBytes"))
        finally:
            os.close(directory)

    def _put_archive(self, asked: Dict[str, Any]) -> None:
        names = [] if _is_root(asked) else _names(asked)
        part = b".venvd-" + hexlify(os.urandom(8)) + b".part"
        try:
            file = os.open(part, os.O_RDWR | _NEW & ~os.O_WRONLY, 0o600, dir_fd=self._root)
        except OSError as error:
            raise paths.explain(error, names) from None
        with open(file, "rb") as received:
            os.unlink(part, dir_fd=self._root)
            try:
                if asked["parents"] is False:
                    os.close(paths.open_directory(self._root, names[:-1]))
                self._connection.result({})
                self._fill(file, names, _whole(asked, "sizeBytes"))
            except OSError as error:
                raise self._too_large(names) if error.errno == errno.EFBIG else paths.explain(error, names) from None
            os.lseek(file, 0, os.SEEK_SET)
            directory = paths.open_directory(self._root, names, make=True)
            try:
                extract(received, directory, self._size_limit.bytes)
                file_status = os.fstat(directory)
            finally:
                os.close(directory)
        self._connection.result(_info(names, file_status))

    def _store(self, directory: int, names: List[bytes], expected: Optional[int]) -> None:
        there = paths.status(directory, names[-1])
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise InvalidRequest('"{}" is a directory, and no file can take its place'.format(paths.show(names)))
        part = b".venvd-" + hexlify(os.urandom(8)) + b".part"
        try:
            file = os.open(part, _NEW, 0o666, dir_fd=directory)
            try:
                self._connection.result({})
                self._fill(file, names, expected)
                if there is not None and stat.S_ISREG(there.st_mode):
                    os.fchmod(file, there.st_mode & 0o777)
                os.rename(part, names[-1], src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(part, dir_fd=directory)
                raise
            finally:
                file_status = os.fstat(file)
                os.close(file)
        except OSError as error:
            raise self._explain(error, names, directory) from None
        self._connection.result(_info(names, file_status))

    def _fill(self, file: int, names: List[bytes], expected: Optional[int]) -> None:
        size = 0
        for chunk in self._connection.receive():
            size += len(chunk)
            if size > self._size_limit.bytes:
                raise self._too_large(names)
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        if expected is not None and size != expected:
            raise InvalidRequest("{} bytes came, and sizeBytes says {}".format(size, expected))

    def _explain(self, error: OSError, names: List[bytes], directory: int) -> Exception:
        if error.errno == errno.EFBIG:
            return self._too_large(names)
        return paths.explain(error, names, _kind(directory, names[-1]))

    def _too_large(self, names: List[bytes]) -> LimitExceeded:
        text = '"{}" is larger than {} bytes, which {} allows'
        return LimitExceeded(text.format(paths.show(names), self._size_limit.bytes, self._size_limit.name))

    # ---- list

    def list(self, asked: Dict[str, Any]) -> None:
        """Answer with a `FileList`."""
        above = [] if _is_root(asked) else _names(asked)
        limit = _whole(asked, "limit")
        limit = _USUAL_ENTRIES if limit is None else max(1, min(limit, MOST_ENTRIES))
        scope = Scope(asked["recursive"] is True, limit, _marker(asked["after"], above))
        try:
            directory = paths.open_to_list(paths.open_directory(self._root, above))
        except OSError as error:
            raise paths.explain(error, above, "directory") from None
        files: List[Any] = []
        size = 0
        last = following = None
        for names, file_status in entries(directory, above, scope):
            if len(files) == limit or size > _MOST_PATH_BYTES:
                following = last
                break
            last = base64.urlsafe_b64encode(b"/".join(names)).decode()
            files.append(_info(names, file_status))
            size += sum(map(len, names))
        self._connection.result({"files": files, "next": following})

    # ---- delete

    def delete(self, asked: Dict[str, Any]) -> None:
        """Answer with `{success}` when the file or directory is gone."""
        names = _names(asked)
        directory = paths.open_directory(self._root, names[:-1])
        file_status = paths.status(directory, names[-1])
        if file_status is None:
            raise NotFound('there is no "{}" in the session\'s working directory'.format(paths.show(names)))
        try:
            if not stat.S_ISDIR(file_status.st_mode):
                os.unlink(names[-1], dir_fd=directory)
            else:
                if asked["recursive"] is True:
                    _empty(_open_by_force(directory, names[-1]))
                os.rmdir(names[-1], dir_fd=directory)
        except OSError as error:
            raise paths.explain(error, names, _kind(directory, names[-1])) from None
        self._connection.result({"success": True})


def _empty(top: int) -> None:
    """Delete all that is in `top`. Move each directory inside up before emptying it, so that no depth is too deep.

    Raises:
        OSError: the kernel does not let this process delete something.
    """
    moved = 0
    pending = os.listdir(top)
    while pending:
        for name in pending:
            if _try_unlink(top, name):
                continue
            inner = _open_by_force(top, os.fsencode(name))
            try:
                for entry in os.listdir(inner):
                    if not _try_unlink(inner, entry):
                        moved += 1
                        os.close(_open_by_force(inner, os.fsencode(entry)))  # moving a directory writes into it
                        os.rename(entry, ".venvd-{}-{}".format(os.getpid(), moved), src_dir_fd=inner, dst_dir_fd=top)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
        pending = os.listdir(top)


def _try_unlink(directory: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=directory)
    except (IsADirectoryError, PermissionError):
        return False
    except FileNotFoundError:
        pass
    return True


def _open_by_force(directory: int, name: bytes) -> int:
    """Give the owner of a directory every right to it, and open it."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        itself = "/proc/self/fd/{}".format(handle)
        os.chmod(itself, stat.S_IRWXU)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _is_root(asked: Dict[str, Any]) -> bool:
    return asked["path"] in (None, "", ".") and asked["pathBytes"] is None


def _limit_length(size: int, offset: int, length: Optional[int]) -> int:
    left = max(0, size - offset)
    return left if length is None else min(left, length)


def _names(asked: Dict[str, Any]) -> List[bytes]:
    return paths.names_of(paths.read_path(asked["path"], asked["pathBytes"]))


def _marker(after: Optional[str], above: List[bytes]) -> List[bytes]:
    if after is None:
        return []
    try:
        names = paths.names_of(base64.urlsafe_b64decode(after))
    except ValueError:
        names = []
    if names[: len(above)] != above or len(names) == len(above):
        raise InvalidRequest('"after" takes the "next" of the list before, of the same directory')
    return names[len(above) :]


def _whole(asked: Dict[str, Any], name: str) -> Optional[int]:
    value: Optional[int] = asked[name]
    if value is not None and value < 0:
        raise InvalidRequest('"{}" takes a whole number, 0 or more'.format(name))
    return value


def _info(names: List[bytes], file_status: os.stat_result, modified_ns: Optional[int] = None) -> Any:
    seconds, nanoseconds = divmod(file_status.st_mtime_ns if modified_ns is None else modified_ns, 10**9)
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    except (OverflowError, ValueError, OSError):  # user code may set any time
        moment = dt.datetime.fromtimestamp(0, dt.timezone.utc)
    modified = "{:%Y-%m-%dT%H:%M:%S}.{:06d}Z".format(moment, nanoseconds // 1000)
    return paths.info(names, file_status, modified)


def _kind(directory: int, name: bytes) -> Optional[str]:
    file_status = paths.status(directory, name)
    return None if file_status is None else paths.kind_of(file_status)


def _what(file_status: os.stat_result) -> str:
    return "a directory" if stat.S_ISDIR(file_status.st_mode) else "a FIFO, a socket or a device"
