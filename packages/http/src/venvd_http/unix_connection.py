"""HTTP over a Unix socket, for threads."""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import suppress
from pathlib import Path

_LONGEST_ADDRESS = 100


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server that listens at a path. Another thread may end it.

    Args:
        path: the path of the socket, of any length.
        timeout: seconds in which the server must answer.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._raw: socket.socket | None = None
        self._ended = False

    def connect(self) -> None:
        self._connect()
        if self._ended:  # before there was a connection to end
            raise ConnectionAbortedError("the client went away")

    def _connect(self) -> None:
        self.sock = self._raw = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        if len(os.fsencode(self._path)) <= _LONGEST_ADDRESS:
            self.sock.connect(os.fspath(self._path))
            return
        # a long path is reached through its directory: the address of a socket has room for 107 bytes
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)

    def hang_up(self) -> None:
        """End the connection for the thread that uses it, and closes it."""
        self._ended = True
        if self._raw is not None:
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)
