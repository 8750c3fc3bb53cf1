"""Makes numpy arrays from the bytes that a transport carries, and the other way round. numpy is optional."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from venvd.errors import BadReply, InvalidRequest, VenvdError
from venvd_contract import arrays
from venvd_contract.arrays import Header


def parse_header(result: Any) -> Header:
    """Return the array header in a reply.

    Raises:
        BadReply: the header is not valid.
    """
    try:
        return arrays.read_header(result)
    except VenvdError as error:
        raise BadReply(f"the backend sent an invalid array descriptor: {error.message}") from None


def array_of(header: Header, memory: Any) -> Any:
    """Return a numpy array over `memory` without a copy. `memory` has as many bytes as the header says."""
    numpy = _import_numpy()
    flat = numpy.frombuffer(memory, dtype=header.dtype) if header.nbytes else numpy.empty(0, dtype=header.dtype)
    return flat.reshape(header.shape, order=header.order)


def bytes_of(value: Any) -> tuple[Header, memoryview]:
    """Return header and bytes of anything that numpy reads as an array. Copy only elements that are out of order.

    Raises:
        InvalidRequest: the elements have no fixed size.
    """
    numpy = _import_numpy()
    if isinstance(value, numpy.ma.MaskedArray):
        raise InvalidRequest("a masked array cannot be sent: send its filled() or data, and its mask")
    array = numpy.asarray(value)
    in_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    header = arrays.header("O" if array.dtype.hasobject else array.dtype.str, array.shape, "F" if in_columns else "C")
    in_order = numpy.ascontiguousarray(array.T if in_columns else array)
    return header, memoryview(in_order.reshape(-1).view("u1"))


def allocate(size: int) -> memoryview:
    """Return memory of that size. If numpy is imported, the memory is not filled with zeros first."""
    numpy = sys.modules.get("numpy")
    return memoryview(bytearray(size) if numpy is None else numpy.empty(size, "u1"))


def _import_numpy() -> Any:
    try:
        return import_module("numpy")
    except ImportError:
        raise InvalidRequest("arrays need numpy in this program: install it, or use floats() and rows()") from None
