"""Walks below one directory so that no link leads out of it, even one that user code puts there meanwhile.

Each step opens one name in the directory before it, and follows no link. A name is bytes, as in the kernel.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from typing import Any, List, Optional, Tuple

from venvd_contract.errors import Conflict, InvalidRequest, LimitExceeded, NotFound, VenvdError

LONGEST_PATH, LONGEST_NAME, DEEPEST = 4096, 255, 64
"""The most bytes of a path, bytes of a name, and names of a path."""

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens a directory to walk on from. `open_to_list` opens one to list it. Without O_PATH, gVisor follows links."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def read_path(path: Optional[str], path_bytes: Optional[str]) -> bytes:
    """Return the bytes of the path that a request names as text or as bytes in base64.

    Raises:
        InvalidRequest: the request has neither, or a path that this cannot turn into bytes.
    """
    if path_bytes is not None:
        try:
            return base64.b64decode(path_bytes, validate=True)
        except ValueError:
            raise InvalidRequest('"pathBytes" takes the bytes of a path in base64') from None
    if path is None:
        raise InvalidRequest('the field "path" is missing; it takes a string')
    try:
        return path.encode()
    except UnicodeEncodeError:
        raise InvalidRequest('the path holds half a character: give the bytes of the name as "pathBytes"') from None


def names_of(raw: bytes) -> List[bytes]:
    """Return the names in a relative path.

    Raises:
        InvalidRequest: the path is not valid; says why.
    """
    path = raw.decode("utf-8", "replace")
    if not raw:
        raise InvalidRequest("the path is empty: name a file, relative to the session's working directory")
    if b"\0" in raw:
        raise _bad(path, "holds a NUL byte")
    if raw.startswith(b"/"):
        raise _bad(path, "is absolute: paths are relative to the session's working directory")
    names = raw.split(b"/")
    for name in names:
        if name in (b"", b".", b".."):
            raise _bad(path, 'has "{}" as a part: name each directory, once, and none above'.format(name.decode()))
        if len(name) > LONGEST_NAME:
            raise _bad(path, "has a name of more than {} bytes".format(LONGEST_NAME))
    if len(raw) > LONGEST_PATH or len(names) > DEEPEST:
        raise _bad(path, "is longer than {} bytes or {} names".format(LONGEST_PATH, DEEPEST))
    return names


def show(names: List[bytes]) -> str:
    """Return the path of these names for people. It replaces bytes that are not UTF-8."""
    return b"/".join(names).decode("utf-8", "replace")


def _bad(path: str, why: str) -> InvalidRequest:
    return InvalidRequest('the path "{}" {}'.format(_quote(path), why))


def _quote(path: str) -> str:
    return path[:200].encode("ascii", "backslashreplace").decode()


def open_root(work_dir: str, root: str, files: str) -> int:
    """Open the session's working directory, `work_dir/root/files`.

    Raises:
        NotFound: code of the session removed it, or put something else in its place.
    """
    descriptor = os.open(work_dir, DIRECTORY)  # this needs no right to list it
    try:
        for name in (root, files):
            descriptor, before = os.open(name, DIRECTORY, dir_fd=descriptor), descriptor
            os.close(before)
    except OSError:
        os.close(descriptor)
        raise NotFound("the session has no working directory any more: its code removed or replaced it") from None
    return descriptor


def open_directory(root: int, names: List[bytes], make: bool = False) -> int:
    """Open the directory of these names below `root`. With `make`, make each directory that is absent.

    Raises:
        VenvdError: this cannot open or make a directory. The message says which one and why.
    """
    descriptor = os.dup(root)
    try:
        for number, name in enumerate(names, 1):
            try:
                descriptor, before = _step(descriptor, name, make), descriptor
            except OSError as error:
                raise explain(error, names[:number], _kind(descriptor, name)) from None
            os.close(before)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _step(directory: int, name: bytes, make: bool) -> int:
    if make:
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:
            pass
    return os.open(name, DIRECTORY, dir_fd=directory)


def open_to_list(directory: int) -> int:
    """Open a directory once more to list it. `directory` is open only to walk on from.

    Raises:
        OSError: the process has no right to read it.
    """
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def status(directory: int, name: bytes) -> Optional[os.stat_result]:
    """Return the status of a name in a directory, or None if it does not exist. Do not follow links."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def kind_of(file_status: os.stat_result) -> str:
    if stat.S_ISREG(file_status.st_mode):
        return "file"
    if stat.S_ISDIR(file_status.st_mode):
        return "directory"
    return "link" if stat.S_ISLNK(file_status.st_mode) else "other"


def _kind(directory: int, name: bytes) -> Optional[str]:
    file_status = status(directory, name)
    return None if file_status is None else kind_of(file_status)


def explain(error: OSError, names: List[bytes], kind: Optional[str] = None) -> VenvdError:
    """Return the error to report for an error of the system."""
    path = _quote(show(names))
    if error.errno in _FULL:
        return LimitExceeded('there is no space left for "{}" where the session keeps its files'.format(path))
    if error.errno == errno.ENOENT:
        return NotFound('there is no "{}" in the session\'s working directory'.format(path))
    if kind == "link":
        return InvalidRequest('"{}" is a symbolic link, and links are not followed'.format(path))
    if error.errno == errno.ENOTEMPTY:
        return Conflict('"{}" is not empty: recursive deletes it with all that is in it'.format(path))
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return InvalidRequest('"{}" is {} directory'.format(path, "a" if kind == "directory" else "no"))
    return InvalidRequest('"{}": {}'.format(path, error.strerror))


Found = Tuple[List[bytes], os.stat_result]


def info(names: List[bytes], file_status: os.stat_result, modified: str) -> Any:
    """Return the fields of a `FileInfo`."""
    kind = kind_of(file_status)
    raw, path = b"/".join(names), show(names)
    exact = {} if path.encode() == raw else {"pathBytes": base64.b64encode(raw).decode()}
    return {
        "path": path,
        **exact,
        "sizeBytes": file_status.st_size if kind == "file" else 0,
        "modifiedAt": modified,
        "isDirectory": kind == "directory",
        "kind": kind,
    }
