"""Files that programs read again after a change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Generic, Optional, TypeVar, Union

Content = TypeVar("Content")


def find_version(path: Union[str, Path, None]) -> Optional[tuple[int, ...]]:
    """Return a value that differs after each change of a file, or None if there is no such file."""
    try:
        return _read_version(path) if path else None
    except OSError:
        return None


def _read_version(path: Union[str, Path]) -> tuple[int, ...]:
    status = Path(path).stat()
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


class WatchedFile(Generic[Content]):
    """A file that is read again after a change.

    Args:
        parse: parses the file's bytes; raises `ValueError` if they are invalid.
        largest: the most bytes of the file.

    Attributes:
        version: the version of the content that was read last; None if the last try failed.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], Content], largest: int) -> None:
        self.path = path
        self.version: Optional[tuple[int, ...]] = None
        self._parse = parse
        self._largest = largest

    def read_changed(self) -> Optional[Content]:
        """Read the file. Return None if it has not changed. After an error, the next call reads it again.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is too large or invalid; the message says why.
        """
        before, self.version = self.version, None
        version = _read_version(self.path)
        content = None if version == before else self._parse(self._read())
        self.version = version
        return content

    def _read(self) -> bytes:
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > self._largest:
                raise ValueError("it is larger than {} bytes".format(self._largest))
            return file.read(self._largest)
