"""The sockets of a backend, opened raw: for peers that speak no protocol, or speak it badly."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from harness.stack import Running

PATIENCE = 60


class Raw:
    """One connection; a peer that has closed it is no error here."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.ended = False

    def send(self, data: bytes) -> bool:
        """Whether the peer still took all of it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def finish(self) -> None:
        """Say that no more will be sent."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    def receive(self) -> bytes:
        """What has come, at least a byte of it; nothing once the peer has closed the connection.

        Raises:
            TimeoutError: the peer neither answers nor closes.
        """
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self.ended = not data
        return data

    def rest(self) -> bytes:
        """Everything until the peer closes the connection."""
        received = b""
        while data := self.receive():
            received += data
        return received

    def until(self, end: bytes) -> bytes:
        """Everything up to `end` and perhaps more, or until the peer closes the connection."""
        received = b""
        while end not in received and (data := self.receive()):
            received += data
        return received

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Door:
    """Where a backend listens: `speaks` is `http`, `lines` or `grpc`."""

    speaks: str
    url: str

    def open(self, timeout: float = PATIENCE) -> Raw:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            sock = _unix(parts.path, timeout)
        else:
            sock = socket.create_connection((parts.hostname, parts.port), timeout)
        return Raw(sock)

    @contextlib.contextmanager
    def crowd(self, count: int, timeout: float = PATIENCE) -> Iterator[list[Raw]]:
        """Many connections, until the end of the block."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.open(timeout)) for _ in range(count)]


def _unix(path: str, timeout: float) -> socket.socket:
    """Where the queue of a socket is full, the kernel says so to who has a timeout, and lets others wait."""
    end = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except BlockingIOError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        except OSError:
            sock.close()
            raise
        else:
            return sock


MAIN = {"http": "http", "pipe": "lines", "rpc": "grpc"}


def door(kind: str, running: Running, *, probes: bool = False) -> Door:
    """The main door of a backend, or that of its probes."""
    return Door("http", running.record.probe_url) if probes else Door(MAIN[kind], running.url)
