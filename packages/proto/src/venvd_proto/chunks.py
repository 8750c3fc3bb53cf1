"""Messages that carry nothing but a chunk, written and read without protobuf, which copies each several times.

In every message of venvd that has a field `chunk`, its number is 2; such a message is a tag, a length and the bytes.
"""

from __future__ import annotations

from venvd_proto.fields import varint

SIZE = 1 << 20
"""Bytes of a chunk: small enough for the message limits that gRPC has by default."""

_TAG = 0x12
_LONGEST_LENGTH = 10


def dump(data: bytes | memoryview) -> bytes:
    """The message whose chunk is `data`."""
    return b"".join((_BEGIN, varint(len(data)), data))


_BEGIN = bytes([_TAG])


def load(message: bytes) -> memoryview | None:
    """The chunk of a message that has nothing else; None where protobuf has to say what it is."""
    if message[:1] != _BEGIN:
        return None
    length = shift = 0
    for start, byte in enumerate(message[1 : 1 + _LONGEST_LENGTH], 2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return memoryview(message)[start:] if start + length == len(message) else None
    return None
