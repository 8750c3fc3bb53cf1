"""HTTP/1.1: requests as bytes, and a reader of responses. Knows no socket."""

from __future__ import annotations

import re
from collections.abc import Iterable

from venvd._net.endpoint import Endpoint
from venvd.errors import BadReply, InvalidRequest, Unavailable

MAX_HEAD = 64 * 1024
"""The most bytes of a status line and headers."""
MAX_BODY = 256 * 1024 * 1024
"""The most bytes of a body to keep in memory."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: |$)")
_SINGLE = frozenset({b"content-length", b"transfer-encoding"})
_NOT_HTTP = "the peer does not speak HTTP/1.1: check the scheme and the port of its URL"


def head(method: str, endpoint: Endpoint, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the part of a request before its Content-Length: request line and headers.

    Raises:
        InvalidRequest: a header or the target contains a line end or is not Latin-1.
    """
    lines = [f"{method} {endpoint.prefix}{target} HTTP/1.1", f"Host: {endpoint.authority}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if any("\r" in line or "\n" in line for line in lines):
        raise InvalidRequest("a token, session name or path contains a line end")
    try:
        return "\r\n".join([*lines, ""]).encode("latin-1")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{error.object[error.start : error.end]!r} cannot stand in a header") from None


def with_body(start: bytes, body: bytes = b"") -> bytes:
    """Return a whole request from the result of `head` and the body."""
    return b"%sContent-Length: %d\r\n\r\n%s" % (start, len(body), body)


class ResponseReader:
    """Reads one response. `body` grows as bytes come. For streamed bodies, `take` empties it."""

    __slots__ = ("_buffer", "_left", "_max_body", "_state", "body", "done", "headers", "reusable", "started", "status")

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self.started = False
        self.done = False
        self.reusable = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self._max_body = max_body
        self._buffer = b""
        self._state = self._read_head
        self._left = 0

    @property
    def has_head(self) -> bool:
        return self.status >= 200

    def header(self, name: str) -> str:
        """Return the value of a header by its name in lower case, or an empty string."""
        return self.headers.get(name.encode("ascii"), b"").decode("latin-1")

    def take(self) -> bytes:
        taken = bytes(self.body)
        self.body.clear()
        return taken

    def feed(self, data: bytes) -> None:
        self.started = True
        self._buffer = self._buffer + data if self._buffer else data
        while not self.done and self._state():
            pass
        if self.done and self._buffer:
            self.reusable = False

    def eof(self) -> None:
        self.reusable = False
        if self._state == self._read_to_end:
            self.done = True
        elif not self.done:
            raise Unavailable("the connection was closed before the whole answer came")

    # Each state consumes what it can from the buffer, and returns whether the next state may run.

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD + 3):  # a part of its end may be there
            raise BadReply(f"a response's headers are larger than {MAX_HEAD} bytes")
        if end < 0:
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise BadReply(_NOT_HTTP)
            return False
        lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        self._status_line(lines[0])
        headers = self.headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                raise BadReply("a response's header has no colon")
            name, value = name.lower(), value.strip()
            if name in _SINGLE and headers.get(name, value) != value:
                raise BadReply("a response has two lengths")
            headers[name] = value
        if self.status >= 200:
            self._choose_body()
        return True

    def _status_line(self, line: bytes) -> None:
        match = _STATUS_LINE.match(line)
        if match is None:
            raise BadReply(_NOT_HTTP)
        self.status = int(match[2])
        self.reusable = match[1] == b"1"

    def _choose_body(self) -> None:
        headers = self.headers
        if headers.get(b"connection", b"").lower() == b"close":
            self.reusable = False
        if self.status in {204, 304}:
            self.done = True
        elif b"transfer-encoding" in headers:
            if headers[b"transfer-encoding"].lower() != b"chunked":
                raise BadReply("a response has a transfer encoding other than chunked")
            self._state = self._read_chunk_size
        elif b"content-length" in headers:
            self._left = self._number(headers[b"content-length"], 10)
            self._check_size(self._left)
            self._state = self._read_length
        else:
            self._state = self._read_to_end

    def _read_length(self) -> bool:
        self._move()
        self.done = self._left == 0
        return False

    def _read_to_end(self) -> bool:
        self._left = len(self._buffer)
        self._check_size(self._left)
        self._move()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._left = self._number(line.partition(b";")[0].strip(), 16)
        self._check_size(self._left)
        self._state = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        self._move()
        if self._left:
            return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise BadReply("a chunk of a response is longer than its size")
        self._buffer = self._buffer[2:]
        self._state = self._read_chunk_size
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self.done = line == b""
        return True

    def _line(self) -> bytes | None:
        line, end, rest = self._buffer.partition(b"\r\n")
        if len(line) > MAX_HEAD + (not end):  # a part of its end may be there
            raise BadReply("a line of a chunked response is too long")
        if not end:
            return None
        self._buffer = rest
        return line

    def _move(self) -> None:
        if len(self._buffer) <= self._left:
            moved, self._buffer = self._buffer, b""
        else:
            moved, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self.body += moved
        self._left -= len(moved)

    def _check_size(self, more: int) -> None:
        if len(self.body) + more > self._max_body:
            raise BadReply(f"a response is larger than {self._max_body} bytes")

    @staticmethod
    def _number(text: bytes, base: int) -> int:
        # int() accepts signs, spaces and underscores, which HTTP does not
        if not text or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
            raise BadReply("a response has an invalid length")
        try:
            return int(text, base)
        except ValueError:
            raise BadReply("a response has an invalid length") from None
