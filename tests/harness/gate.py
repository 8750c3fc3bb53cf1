"""A port or a Unix socket in front of another one, which a test can shut."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from pathlib import Path


class _Gate(ABC):
    """Passes connections on to a target while it is open."""

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._shut_at: bytes | None = None
        self._open_listener()

    @abstractmethod
    def _listen(self) -> socket.socket: ...

    @abstractmethod
    def _connect(self) -> socket.socket:
        """Connect to the target."""

    def _open_listener(self) -> None:
        self._listener = self._listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def open(self) -> None:
        self._shut_at = None
        if self._listener.fileno() < 0:
            self._open_listener()

    def shut(self) -> None:
        """End all connections, and accept none."""
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def shut_at(self, words: bytes) -> None:
        """Shut the gate when a client sends these words, and pass on half of what it sent with them."""
        self._shut_at = words

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = self._connect()
            self._connections += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._shut_at is not None and self._shut_at in data:
                    sink.sendall(data[: len(data) // 2])
                    self.shut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Gate(_Gate):
    """A TCP port in front of another one.

    Args:
        target: host and port.
        host: the address to listen at.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self.host = host
        self.port = 0
        super().__init__()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((self.host, self.port))
        self.port = int(listener.getsockname()[1])
        return listener

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._target)


class UnixGate(_Gate):
    """A Unix socket in front of another one; a shut gate has no socket.

    Args:
        target: the path of the other socket.
        path: the path to listen at.
    """

    def __init__(self, target: Path, path: Path) -> None:
        self._target = target
        self.path = path
        super().__init__()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        return listener

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._target))
        return connection

    def shut(self) -> None:
        super().shut()
        self.path.unlink(missing_ok=True)
