"""The two ends of a broker: a client, and a host on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from venvd_egress.refusal import Refused


class Host:
    """A host: it keeps what it is sent until a blank line and `more` bytes, and answers with `answer`."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.more = b""
        self.received: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection:
                    connection.settimeout(30)
                    data = b""
                    while not (b"\r\n\r\n" in data and data.endswith(self.more)):
                        chunk = connection.recv(65536)
                        if not chunk:
                            break
                        data += chunk
                    self.received.append(data)
                    connection.sendall(self.answer)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(30)


class Client:
    """Asks a broker over its socket; `refusals` are those that it has reported."""

    def __init__(self, path: str, refusals: list[Refused]) -> None:
        self.path = path
        self.refusals = refusals

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(self.path)
        return connection

    def ask(self, request: bytes) -> bytes:
        """Return all that the broker answers until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # it did not read all of a wrong request
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer


Start = Callable[..., Client]
