"""The bytes of messages whose form is always the same: writing them takes less than making an object and asking it."""

from __future__ import annotations

VARINT, BYTES = 0, 2


def varint(number: int) -> bytes:
    """A number below 2**64 in groups of seven bits, the lowest first."""
    if number < 0x80:
        return _SMALL[number]
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_SMALL = [bytes([number]) for number in range(0x80)]


def tag(number: int, kind: int) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | kind)


def text(before: bytes, data: bytes) -> bytes:
    """A field of text; `before` is its tag, and what comes before that.

    Raises:
        UnicodeDecodeError: the text is not UTF-8, which gRPC's messages have to be.
    """
    if not data.isascii():
        data.decode()
    return before + varint(len(data)) + data
