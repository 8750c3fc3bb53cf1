"""The description of an array, and the header of a `.npy` stream.

A description is `{dtype, shape, order}`: `dtype` in numpy's notation (numbers, booleans, complex, datetimes with a
unit, texts of fixed length; no objects and no structures), `order` is `C` or `F`. A table is described as its bytes
(`"|u1"`, `[size]`) with `"format": "arrow"`. The elements have a fixed size and are contiguous. This module
does not need numpy, and unpickles nothing.

Arrays and tables travel over the pipe with these commands:

| request | reply |
|---|---|
| `array.get {handleId}` | the description, and the bytes as one attachment |
| `array.get {handleId, shm}` | beyond 64 KiB `{dtype, shape, order, segment, size}`; the segment begins with it |
| `array.put {dtype, shape, order}` and an attachment | `{handleId, typeName}` |
| `array.put {dtype, shape, order, shm}` | a segment, for the client to write into |
| `array.put {dtype, shape, order, segment}` | `{handleId, typeName}`; the array is made in place |
| `array.release {segments}`, or `release` in the others | the session may reuse these segments |

The attachment of an array may be larger than the limit on attachments. A reply that names a segment for the first
time on a connection has `"descriptors": 1` beside `result`, and the descriptor comes with the line. `gone` in a reply
names segments that the session will not use again.

Over HTTP an array is a `.npy` body (versions 1.0 to 3.0). The response to `GET /api/array` has a length; the request
`PUT /api/array` may be chunked. Over gRPC `GetArray` and `PutArray` carry the description, then chunks of at most 1
MiB. If a session ends during the transfer of an array, only gRPC can report it: over pipe and HTTP the connection ends
before the announced number of bytes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from venvd_contract.errors import InvalidRequest, TooLarge

MAX_DIMENSIONS = 64
MAX_BYTES = (1 << 63) - 1
"""The largest size that an address can reach."""
MAX_NPY_HEADER = 64 * 1024
"""The most bytes of a `.npy` header, the part before the array's own bytes."""

ARROW = "arrow"
"""The format of tables."""
INTO = ("table", "pandas", "polars")
"""The types that a sent table can get in the session. The first one is the default."""

_MAGIC = b"\x93NUMPY"
_ALIGNMENT = 64
_GROWTH_DIGITS = 21
_MOST_BRACKETS = 256
_SIZES = {
    "b": (1,),
    "i": (1, 2, 4, 8),
    "u": (1, 2, 4, 8),
    "f": (2, 4, 8, 12, 16),
    "c": (8, 16, 24, 32),
    "m": (8,),
    "M": (8,),
}
_TYPE = re.compile(r"([<>|=]?)([a-zA-Z])([0-9]{0,10})(\[[0-9]{0,10}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?")
_PERMITTED = (
    'numbers such as "<f8", ">i4" and "<c16", "|b1", times such as "<M8[ns]" and "<m8[s]", '
    'and texts of a fixed length such as "|S5" and "<U7"'
)


@dataclass(frozen=True)
class Header:
    """The description of an array. `header` makes and checks it.

    Attributes:
        dtype: byte order, kind and size, as numpy writes it.
        shape: the length of each dimension. `()` is one element.
        order: "C" if the last dimension is the innermost, "F" if the first one is.
        itemsize: bytes of one element.
        nbytes: bytes of all elements.
        format: None for an array, "arrow" for a table as an Arrow IPC stream.
        into: what a table becomes. None means a `pyarrow.Table`.
    """

    dtype: str
    shape: Tuple[int, ...]
    order: str
    itemsize: int
    nbytes: int
    format: Optional[str] = None
    into: Optional[str] = None

    def fields(self) -> Dict[str, Any]:
        """Return the fields of requests and replies."""
        fields = {"dtype": self.dtype, "shape": list(self.shape), "order": self.order}
        if self.format is not None:
            fields["format"] = self.format
        if self.into is not None:
            fields["into"] = self.into
        return fields

    def check_length(self, length: int) -> None:
        """Check that an array of this type and shape has `length` bytes.

        Raises:
            InvalidRequest: it has another number of bytes.
        """
        if length != self.nbytes:
            raise InvalidRequest(
                "an array of {} and shape {} takes {} bytes, and there are {}".format(
                    self.dtype, list(self.shape), self.nbytes, length
                )
            )


def header(dtype: Any, shape: Any, order: Any = "C") -> Header:
    """Return the header for a description by a peer.

    Raises:
        InvalidRequest: type, shape or order is invalid; the message says which values are valid.
        TooLarge: the array has too many dimensions or bytes.
    """
    name, itemsize = _check_type(dtype)
    lengths = _check_shape(shape)
    if order not in ("C", "F"):
        raise InvalidRequest('the order of an array is "C" or "F", not {}'.format(_shorten(order)))
    return Header(name, lengths, order, itemsize, _size(lengths, itemsize))


def table(size: int, into: Optional[str] = None) -> Header:
    """Return the header of a table as an Arrow IPC stream of `size` bytes.

    Raises:
        InvalidRequest: `into` is unknown.
        TooLarge: no memory has so many bytes.
    """
    if into is not None and into not in INTO:
        raise InvalidRequest('"into" takes {}, not {}'.format(" or ".join(map('"{}"'.format, INTO)), _shorten(into)))
    plain = header("|u1", [size])
    return replace(plain, format=ARROW, into=into)


def read_header(fields: Dict[str, Any]) -> Header:
    """Return the header in the fields of a request or reply.

    Raises:
        InvalidRequest, TooLarge: see `header` and `table`. The format may also be unknown.
    """
    head = header(fields["dtype"], fields["shape"], fields.get("order", "C"))
    form = fields.get("format")
    if form is None:
        if fields.get("into") is not None:
            raise InvalidRequest('"into" is the type that a table gets: "format" must be "{}"'.format(ARROW))
        return head
    check_format(form)
    if head.dtype != "|u1" or len(head.shape) != 1:
        raise InvalidRequest('a table is described as bytes: dtype "|u1", shape [their number]')
    return table(head.nbytes, fields.get("into"))


def check_format(form: Any) -> None:
    """Check the field `format`.

    Raises:
        InvalidRequest: it is neither null nor a known format.
    """
    if form is not None and form != ARROW:
        raise InvalidRequest(
            '"format" takes "{}" for a table, or nothing for an array, not {}'.format(ARROW, _shorten(form))
        )


def _check_type(dtype: Any) -> Tuple[str, int]:
    if type(dtype) is not str:
        raise InvalidRequest('the dtype of an array is a text such as "<f8", not {}'.format(_shorten(dtype)))
    match = _TYPE.fullmatch(dtype)
    if match is None:
        raise InvalidRequest("{} is no dtype that can travel: {} can".format(_shorten(dtype), _PERMITTED))
    byte_order, kind, digits, unit = match.groups()
    if kind == "O":
        raise InvalidRequest("arrays of objects cannot travel, elements of a fixed size can: {}".format(_PERMITTED))
    if kind == "V":
        raise InvalidRequest("structured and void arrays cannot travel: send their fields one by one")
    itemsize = _item_size(dtype, kind, int(digits or 0))
    if unit is not None and kind not in "mM":
        raise InvalidRequest("{} is no dtype: only times (m8, M8) have a unit".format(_shorten(dtype)))
    single = kind == "S" or itemsize == 1
    if not single and byte_order not in ("<", ">"):
        raise InvalidRequest('{} does not say its byte order: begin it with "<" or ">"'.format(_shorten(dtype)))
    return "{}{}{}{}".format("|" if single else byte_order, kind, int(digits), unit or ""), itemsize


def _item_size(dtype: str, kind: str, count: int) -> int:
    if kind in "SU":
        if not 1 <= count <= MAX_BYTES >> 2:
            raise InvalidRequest(
                "{} is no dtype that can travel: a text has a length from 1 on".format(_shorten(dtype))
            )
        return count if kind == "S" else 4 * count
    if count not in _SIZES.get(kind, ()):
        raise InvalidRequest("{} is no dtype that can travel: {} can".format(_shorten(dtype), _PERMITTED))
    return count


def _check_shape(shape: Any) -> Tuple[int, ...]:
    if not isinstance(shape, (list, tuple)):
        raise InvalidRequest("the shape of an array is a list of whole numbers, not {}".format(_shorten(shape)))
    if len(shape) > MAX_DIMENSIONS:
        raise TooLarge("an array has at most {} dimensions, not {}".format(MAX_DIMENSIONS, len(shape)))
    for length in shape:
        if type(length) is not int or length < 0:
            raise InvalidRequest("the shape of an array holds whole numbers from 0 on, not {}".format(_shorten(length)))
    return tuple(shape)


def _size(shape: Sequence[int], itemsize: int) -> int:
    """Return the number of bytes. Like numpy, refuse a shape that is too large even if another dimension is 0."""
    total = itemsize
    for length in shape:
        total *= length or 1
        if total > MAX_BYTES:
            raise TooLarge("an array of shape {} is larger than any memory".format(_shorten(list(shape))))
    return 0 if 0 in shape else total


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# ---- .npy ------------------------------------------------------------------------------------------------------


def dump_npy(head: Header) -> bytes:
    """Return the bytes before an array in a `.npy` stream, exactly as numpy writes them."""
    flat = len(head.shape) < 2 or head.nbytes == head.itemsize  # both orders are equal
    text = "{{'descr': '{}', 'fortran_order': {}, 'shape': {!r}, }}".format(
        head.dtype, head.order == "F" and not flat, head.shape
    )
    if head.shape:
        growing = head.shape[-1 if head.order == "F" and not flat else 0]
        text += " " * (_GROWTH_DIGITS - len(repr(growing)))
    before = len(_MAGIC) + 4
    text += " " * (-(before + len(text) + 1) % _ALIGNMENT) + "\n"
    return _MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")


def parse_npy(data: Union[bytes, bytearray, memoryview]) -> Optional[Tuple[Header, int]]:
    """Return the header at the start of a `.npy` stream and its size in bytes, or None if it is incomplete.

    Raises:
        InvalidRequest: the bytes are not a `.npy` stream of version 1.0 to 3.0, or the array is not supported.
        TooLarge: the header, or the array, is too large.
    """
    start = bytes(data[:12])
    if start[:6] != _MAGIC[: len(start)]:
        raise InvalidRequest("the body is no .npy stream: it must begin with \\x93NUMPY, as numpy.save writes it")
    if len(start) < 8:
        return None
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise InvalidRequest("version {}.{} of .npy is unknown: 1.0, 2.0 and 3.0 can be read".format(*version))
    begins = 10 if version == (1, 0) else 12
    if len(start) < begins:
        return None
    ends = begins + int.from_bytes(start[8:begins], "little")
    if ends > MAX_NPY_HEADER:
        raise TooLarge("the .npy header has {} bytes, and at most {} are read".format(ends, MAX_NPY_HEADER))
    if len(data) < ends:
        return None
    return _parse_npy_header(bytes(data[begins:ends]), "utf-8" if version == (3, 0) else "latin-1"), ends


def _parse_npy_header(raw: bytes, encoding: str) -> Header:
    try:
        text = raw.decode(encoding)
        if sum(map(text.count, "([{")) > _MOST_BRACKETS:
            text = ""  # deep nesting would overload the parser
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InvalidRequest("the .npy header is no dictionary of literals: {}".format(error)) from None
    if type(fields) is not dict or set(fields) != {"descr", "fortran_order", "shape"}:
        raise InvalidRequest('the .npy header must have "descr", "fortran_order" and "shape", and nothing else')
    if isinstance(fields["descr"], (list, tuple)):
        raise InvalidRequest("structured and void arrays cannot travel: send their fields one by one")
    if type(fields["fortran_order"]) is not bool or type(fields["shape"]) is not tuple:
        raise InvalidRequest('in a .npy header "fortran_order" is True or False, and "shape" a tuple')
    return header(fields["descr"], fields["shape"], "F" if fields["fortran_order"] else "C")
