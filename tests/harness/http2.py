"""HTTP/2 by hand, as far as a peer needs it that breaks the rules of gRPC."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each whole frame."""
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        yield data[3], data[9 : 9 + size]
        data = data[9 + size :]


def headers(fields: dict[str, str], stream: int = 1, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame; nothing is indexed or compressed."""
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())
    return frame(HEADERS, block, flags, stream)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, size = len(data) - 127, b"\x7f"
    while rest >= 128:
        size += bytes([rest % 128 + 128])
        rest //= 128
    return size + bytes([rest]) + data


def opening() -> bytes:
    """What a client says first."""
    return PREFACE + frame(SETTINGS)


def request(method: str, token: str, stream: int = 1, **more: str) -> bytes:
    """The head of a gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/venvd.v1.PythonService/{method}",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
        "authorization": f"Bearer {token}",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return headers(fields, stream)


def message(data: bytes, announced: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message, whose prefix may lie about its length and compression."""
    return struct.pack(">BI", compressed, len(data) if announced is None else announced) + data
