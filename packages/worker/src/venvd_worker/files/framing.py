"""The file process's end of the connection to the server."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Iterator

from venvd_contract.errors import VenvdError
from venvd_contract.internal.file_transfer import DATA, END, ERROR, HEAD, LARGEST_DATA, RESULT

_encode = json.JSONEncoder(separators=(",", ":")).encode


class PeerGone(Exception):
    """The server went away, or cancelled the transfer."""


class FileConnection:
    """Sends results and receives data. Its methods block."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def result(self, result: Any) -> None:
        self._send(RESULT, result)

    def error(self, error: VenvdError) -> None:
        """Report an error, and read what still comes, because a close with unread bytes would lose the report."""
        self._send(ERROR, error.fields())
        self._sock.shutdown(socket.SHUT_WR)
        while self._sock.recv(65536):
            pass

    def _send(self, kind: bytes, message: Any) -> None:
        data = _encode(message).encode()
        self._sock.sendall(HEAD.pack(kind, len(data)) + data)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are. The server knows how many will come."""
        self._sock.sendall(data)

    def send_file(self, file: int, offset: int, length: int) -> bool:
        """Send bytes of a file as they are. Return False if the file became shorter, so that the bytes end early."""
        while length:
            sent = os.sendfile(self._sock.fileno(), file, offset, length)
            if not sent:
                return False
            offset, length = offset + sent, length - sent
        return True

    def receive(self) -> Iterator[bytes]:
        """Yield the data that the server sends, up to its end.

        Raises:
            PeerGone: the server stopped before the end.
        """
        while True:
            kind, size = HEAD.unpack(self._exactly(HEAD.size))
            if kind == END:
                return
            if kind != DATA or size > LARGEST_DATA:
                raise PeerGone
            yield self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._sock.recv_into(view)
            if not count:
                raise PeerGone
            view = view[count:]
        return bytes(data)
