"""Long float arrays as messages: read a session's text part by part, as Python floats would take far more memory.

The messages have one form: field 1 holds the numbers, packed, or rows whose field 1 holds them.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from venvd_contract.errors import Internal
from venvd_core.arrays import CHUNK
from venvd_core.float_arrays import LARGEST_WHOLE, too_long
from venvd_proto import fields
from venvd_rpc_backend.methods import read_floats, read_rows

T = TypeVar("T")

_FIELD = fields.tag(1, fields.BYTES)


async def pack_flat(parts: Iterable[bytes], code: str) -> bytes:
    """Write the message of an array.

    Args:
        parts: its JSON.
        code: the type of its numbers: `d` for double, `f` for float.

    Raises:
        Internal: the session sent no array of numbers.
        LimitExceeded: the message is too long.
    """
    numbers: array[float] = array(code)
    for chunk in _split(parts, b","):
        numbers.extend(array(code, _read(read_floats, chunk)))
        _check_length(len(numbers) * numbers.itemsize)
        await asyncio.sleep(0)  # lets other calls run
    return _field(_pack(numbers))


async def pack_rows(parts: Iterable[bytes], code: str) -> bytes:
    """Write the message of rows; arguments and errors are those of `pack_flat`."""
    message = bytearray()
    for chunk in _split(parts, b"],"):
        for row in _read(read_rows, chunk):
            numbers: array[float] = array(code, row)
            message += _field(_field(_pack(numbers)) if row else b"")
        _check_length(len(message))
        await asyncio.sleep(0)
    return bytes(message)


def cut(text: bytes) -> Iterator[bytes]:
    """Yield a text in parts, in the form of a long text."""
    for start in range(0, len(text), CHUNK):
        yield text[start : start + CHUNK]


def _check_length(nbytes: int) -> None:
    if nbytes > LARGEST_WHOLE:
        raise too_long(nbytes)


def _split(parts: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    """Split an array into shorter ones, at the last separator of each part, and drop the comma there."""
    rest = bytearray()
    for part in parts:
        searched = max(0, len(rest) - len(separator))
        rest += part
        end = rest.rfind(separator, searched)
        if end >= 0:
            comma = end + len(separator) - 1
            yield bytes(rest[:comma]) + b"]"
            rest[: comma + 1] = b"["
    yield bytes(rest)


def _read(read: Callable[[bytes], list[T]], chunk: bytes) -> list[T]:
    try:
        return read(chunk)
    except msgspec.MsgspecError as error:
        raise Internal(f"the session sent a float array that is not JSON: {error}") from None


def _pack(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _field(data: bytes) -> bytes:
    before: bytes = _FIELD + fields.varint(len(data))
    return before + data
