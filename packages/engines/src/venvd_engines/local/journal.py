"""Log files of a backend: the supervisor writes them, the engine reads and follows them.

One line of a file is `time stream text`. A file that reaches `FILE_BYTES` replaces the old file. Standard library only.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

FILE_BYTES = 4 << 20
LINE_BYTES = 16 << 10
"""The most bytes of a line; a longer line is written as several."""


@dataclass(frozen=True, order=True)
class JournalLine:
    time: str
    stream: str
    text: str


class Writer:
    """Appends the output of one part. If the disk is full, lines are lost, but there is no error."""

    def __init__(self, path: Path, limit: int = FILE_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._file: BinaryIO | None = None
        self._size = 0
        self._partial: dict[str, bytes] = {}

    def feed(self, stream: str, data: bytes) -> None:
        """Write the complete lines. Keep an unfinished one until its rest comes."""
        *lines, rest = (self._partial.get(stream, b"") + data).split(b"\n")
        while len(rest) > LINE_BYTES:
            lines.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._partial[stream] = rest
        for line in lines:
            for start in range(0, max(len(line), 1), LINE_BYTES):
                self._write(stream, line[start : start + LINE_BYTES])

    def close(self) -> None:
        for stream, rest in self._partial.items():
            if rest:
                self._write(stream, rest)
        self._partial.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, stream: str, text: bytes) -> None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = f"{now} {stream} ".encode() + text.rstrip(b"\r") + b"\n"
        with contextlib.suppress(OSError):
            self._rotate(len(line))
            if self._file is not None:
                self._file.write(line)
                self._size += len(line)

    def _rotate(self, more: int) -> None:
        if self._file is not None and self._size + more > self._limit:
            self._file.close()
            self._file = None
            self._path.replace(older(self._path))
        if self._file is None:
            self._file = open(self._path, "ab", buffering=0, opener=_private)  # noqa: SIM115
            self._size = os.fstat(self._file.fileno()).st_size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


class Reader:
    """Reads one part's lines, also when a new file replaces the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""

    def history(self, limit: int | None) -> list[JournalLine]:
        """Return the last `limit` lines so far; `new` returns later ones."""
        lines: deque[JournalLine] = deque(maxlen=limit)
        with contextlib.suppress(OSError), older(self._path).open("rb") as file:
            lines.extend(_parse(file.read().splitlines()))
        lines.extend(self.new())
        return list(lines)

    def new(self) -> list[JournalLine]:
        """Return the lines since the last call."""
        lines: list[JournalLine] = []
        while True:
            fresh = self._next_file()
            lines += self._read()  # after the check, so that it gets the last lines of the old file
            if fresh is None:
                return lines
            self.close()
            self._file, self._partial = fresh, b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> list[JournalLine]:
        if self._file is None:
            return []
        *whole, self._partial = (self._partial + self._file.read()).split(b"\n")
        return list(_parse(whole))

    def _next_file(self) -> BinaryIO | None:
        """Open the newest file, or return None if it is the one being read."""
        try:
            newest = self._path.stat()
            if self._file is not None and os.path.samestat(newest, os.fstat(self._file.fileno())):
                return None
            return self._path.open("rb")
        except OSError:
            return None


def _parse(lines: list[bytes]) -> Iterator[JournalLine]:
    for line in lines:
        time, _, rest = line.decode("utf-8", "replace").partition(" ")
        stream, _, text = rest.partition(" ")
        if stream:
            yield JournalLine(time, stream, text)


def merge(sources: dict[str, list[JournalLine]]) -> Iterator[tuple[str, JournalLine]]:
    """Yield the lines of all sources in the order of their times, each after the name of its source."""
    labelled = ([(line, name) for line in lines] for name, lines in sources.items())
    for line, name in heapq.merge(*labelled, key=lambda pair: pair[0].time):
        yield name, line
