"""NamedPipeClientStream with a StreamReader and a StreamWriter in UTF-8, as .NET has them on Unix."""

from __future__ import annotations

import codecs
import os
import socket
import time
from pathlib import Path

from compat.dotnet.errors import InvalidOperationError, IoError

BUFFER = 1024
"""Characters that a StreamWriter holds before it writes them to its stream."""
CONNECT = 30.0


def path_of(name: str) -> str:
    """The socket of a pipe's name: an absolute path as it is, else `CoreFxPipe_NAME` in Path.GetTempPath()."""
    if name.startswith("/"):
        return name
    return str(Path(os.environ.get("TMPDIR") or "/tmp") / f"CoreFxPipe_{name}")


class NamedPipe:
    """A connected pipe: lines go out and come back as text."""

    def __init__(self, name: str, new_line: str = "\n") -> None:
        self._new_line = new_line
        self._socket = _connect(path_of(name))
        self._reader = self._socket.makefile("rb")
        self._preamble = codecs.BOM_UTF8

    def write_line(self, text: str) -> None:
        """WriteLineAsync with AutoFlush: the byte order mark is a write of its own, before the first line."""
        try:
            if self._preamble:
                self._socket.sendall(self._preamble)
                self._preamble = b""
            line = text + self._new_line
            for start in range(0, len(line), BUFFER):
                self._socket.sendall(line[start : start + BUFFER].encode())
        except OSError as error:
            raise IoError(f"pipe is broken: {error}") from error

    def read_line(self) -> str | None:
        """ReadLineAsync: None at the end of the stream; bytes that are no UTF-8 become replacement characters."""
        try:
            line = self._reader.readline()
        except OSError as error:
            raise IoError(f"pipe is broken: {error}") from error
        if not line:
            return None
        text = line.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
        return text.removesuffix("\n").removesuffix("\r")

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


def _connect(path: str) -> socket.socket:
    """ConnectAsync(30000): a socket that is not there yet is tried again."""
    end = time.monotonic() + CONNECT
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            made.close()
            if time.monotonic() > end:
                raise InvalidOperationError(f"the operation has timed out: {path}") from error
            time.sleep(0.01)
        except OSError as error:
            made.close()
            raise IoError(f"{path}: {error}") from error
        else:
            return made
