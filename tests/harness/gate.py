"""A TCP port in front of another one, which a test can shut."""

from __future__ import annotations

import contextlib
import socket
import threading


class Gate:
    """Passes connections on to a target while it is open.

    Args:
        target: host and port.
        host: the address to listen at.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self._connections: list[socket.socket] = []
        self._shut_at: bytes | None = None
        self.host = host
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def open(self) -> None:
        self._shut_at = None
        if self._listener.fileno() < 0:
            self._listener = socket.create_server((self.host, self.port))
            self._serve()

    def shut(self) -> None:
        """End all connections, and take none."""
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
            server = socket.create_connection(self._target)
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
            sink.shutdown(socket.SHUT_RDWR)
