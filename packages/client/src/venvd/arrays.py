"""numpy arrays here and there: what the client makes of the bytes that a transport carries. numpy is optional."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from venvd.errors import BadReply, InvalidRequest, VenvdError
from venvd_contract import arrays
from venvd_contract.arrays import Header


def header_of(result: Any) -> Header:
    """The header in a reply.

    Raises:
        BadReply: it is none.
    """
    try:
        return arrays.described(result)
    except VenvdError as error:
        raise BadReply(f"the backend described an array that cannot be: {error.message}") from None


def array_of(header: Header, memory: Any) -> Any:
    """A numpy array over `memory`, an object of as many bytes as the header says; nothing is copied."""
    numpy = _numpy()
    flat = numpy.frombuffer(memory, dtype=header.dtype) if header.nbytes else numpy.empty(0, dtype=header.dtype)
    return flat.reshape(header.shape, order=header.order)


def bytes_of(value: Any) -> tuple[Header, memoryview]:
    """Header and bytes of whatever numpy sees as an array; copied only where its elements do not lie in order.

    Raises:
        InvalidRequest: its elements have no fixed size.
    """
    numpy = _numpy()
    if isinstance(value, numpy.ma.MaskedArray):
        raise InvalidRequest("a masked array cannot travel: send its filled() or data, and its mask")
    array = numpy.asarray(value)
    columns = array.flags.f_contiguous and not array.flags.c_contiguous
    header = arrays.header("O" if array.dtype.hasobject else array.dtype.str, array.shape, "F" if columns else "C")
    straight = numpy.ascontiguousarray(array.T if columns else array)
    return header, memoryview(straight.reshape(-1).view("u1"))


def room(size: int) -> memoryview:
    """Memory for what comes; not filled with zeros first where numpy is there to make it so."""
    numpy = sys.modules.get("numpy")
    return memoryview(bytearray(size) if numpy is None else numpy.empty(size, "u1"))


def _numpy() -> Any:
    try:
        return import_module("numpy")
    except ImportError:
        raise InvalidRequest(
            "arrays need numpy in this program: install it, or use floats() and rows(), which do without"
        ) from None
