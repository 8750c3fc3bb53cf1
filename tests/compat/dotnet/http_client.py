"""System.Net.Http.HttpClient over HTTP/1.1: its bytes, its pool of connections and its time-out."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

from compat.dotnet.errors import HttpRequestError, NotSupportedError, TaskCanceledError

CHUNK = 14_745
"""JsonContent writes what it has as a chunk when nine tenths of its buffer of 16 KiB are full."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: Message
    body: bytes

    def ensure_success(self) -> None:
        """EnsureSuccessStatusCode.

        Raises:
            HttpRequestError: the status is not from 200 to 299.
        """
        if not 200 <= self.status <= 299:
            raise HttpRequestError(f"response status code does not indicate success: {self.status}")

    def json(self) -> bytes:
        """The body for ReadFromJsonAsync: UTF-8 without a byte order mark.

        Raises:
            NotSupportedError: the content type is not that of JSON.
        """
        kind = self.headers.get_content_type()
        if kind != "application/json" and not kind.endswith("+json"):
            raise NotSupportedError(f"the provided ContentType is not supported: {kind}")
        charset = self.headers.get_content_charset() or "utf-8"
        return self.body.decode(charset).encode().removeprefix(b"\xef\xbb\xbf")


class HttpClient:
    """Sends requests to one address; connections are used again, and any number may be open."""

    def __init__(self, address: str, timeout: float, token: str | None = None) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 80
        self._authority = parts.netloc
        self._timeout = timeout
        self._authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self.opened = 0

    def get(self, path: str) -> Response:
        return self._send([self._head("GET", path, "", "")])

    def post_chunked(self, path: str, body: bytes) -> Response:
        """PostAsJsonAsync: the length is not known before the body is written."""
        head = self._head(
            "POST", path, "Transfer-Encoding: chunked\r\n", "Content-Type: application/json; charset=utf-8\r\n"
        )
        return self._send(_chunks(head, body))

    def post_string(self, path: str, body: bytes) -> Response:
        """PostAsync with a StringContent."""
        content = f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        return self._send([self._head("POST", path, "", content) + body])

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _head(self, method: str, path: str, request: str, content: str) -> bytes:
        first = f"{method} {path} HTTP/1.1\r\nHost: {self._authority}\r\n"
        return f"{first}{self._authorization}{request}{content}\r\n".encode()

    def _send(self, writes: list[bytes]) -> Response:
        try:
            connection = self._connection()
            try:
                for each in writes:
                    connection.sendall(each)
                response = http.client.HTTPResponse(connection)
                response.begin()
                body = response.read()
            except BaseException:
                connection.close()
                raise
        except TimeoutError as error:
            raise TaskCanceledError("the request was canceled due to the configured HttpClient.Timeout") from error
        except (OSError, http.client.HTTPException) as error:
            raise HttpRequestError(f"an error occurred while sending the request: {error!r}") from error
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return Response(response.status, response.headers, body)

    def _connection(self) -> socket.socket:
        """An idle connection that the server has not closed, or a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
        self.opened += 1
        return _open(self._host, self._port, self._timeout)


def _open(host: str, port: int, timeout: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _chunks(head: bytes, body: bytes) -> list[bytes]:
    """The writes of a chunked request: the headers go out with the first chunk, and the end with the last."""
    pieces = [b"%X\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(body)]
    pieces[0] = head + pieces[0]
    pieces[-1] += b"0\r\n\r\n"
    return pieces


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
