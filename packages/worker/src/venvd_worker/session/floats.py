"""Read objects as arrays of numbers, for `tofloatarray` and `tofloatarray2d`. This needs no numpy.

What can be read: sequences and other iterables at any depth, buffers, arrays of numpy, whatever numpy makes an array of
(objects with `to_numpy`, `__array__` or `__array_interface__`), objects with `tolist`, and single numbers.
"""

from __future__ import annotations

import struct
import sys
from importlib import import_module
from typing import Any, List, Optional

from venvd_contract.errors import InvalidRequest
from venvd_worker.session.float_text import FloatText
from venvd_worker.session.tracebacks import class_name

BLOCK = 8192
"""The numbers to convert at once."""
_TEXTS = (str, bytes, bytearray, dict)
_LISTS = (list, tuple, range)
_DEEPEST = 32
_REAL = "fiub"
"""Kinds of numpy's types of real numbers."""
_SINGLE = struct.Struct("f")
_SMALLEST_NORMAL = 2.0**-126


def write_flat(value: Any, out: FloatText) -> None:
    """Write all numbers of a value, in order. A single number is an array of one.

    Raises:
        InvalidRequest: the value is not an array, is nested too deeply, or contains something other than a number.
        LimitExceeded: there is too much of it.
    """
    out.begin()
    _Writer(out).write(value)
    out.end()


def write_rows(value: Any, out: FloatText) -> None:
    """Write the rows of a sequence of sequences. Rows may differ in length. A flat sequence or a number is one row.

    Raises:
        InvalidRequest: the value is not an array, has more than two dimensions, or contains something other than a
            number.
        LimitExceeded: there is too much of it.
    """
    out.begin()
    for row in _rows(value):
        numbers = _unwrap(row)
        deep = any(map(_is_nested, numbers)) if isinstance(numbers, _LISTS) else numbers.ndim > 1
        if deep:
            raise InvalidRequest("the object has more than two dimensions")
        out.begin()
        _Writer(out).write(numbers)
        out.end()
    out.end()


def _rows(value: Any) -> Any:
    if _is_number(value):
        return [[value]]
    rows = _unwrap(value)
    if not isinstance(rows, _LISTS):
        return rows if rows.ndim > 1 else [rows]
    return [rows] if rows and not any(map(_is_nested, rows)) else rows


def _unwrap(value: Any) -> Any:
    """Return an array of numpy. Return a list of items for an array of objects, and for any other value."""
    array = _find_array(value)
    if array is None:
        return _list_items(value)
    return array.tolist() if array.dtype.kind == "O" and array.ndim else array


class _Writer:
    """Writes the numbers of one array in blocks."""

    def __init__(self, out: FloatText) -> None:
        self._out = out
        self._block: List[float] = []

    def write(self, value: Any) -> None:
        self._write(value, 0)
        self._flush()

    def _flush(self) -> None:
        if self._block:
            self._out.add(self._block)
            self._block = []

    def _write(self, value: Any, depth: int) -> None:
        if depth > _DEEPEST:
            raise InvalidRequest("the object is nested more than {} levels deep".format(_DEEPEST))
        if _is_number(value):
            self._block.append(_number(value))
            return
        array = _find_array(value)
        if array is not None and array.dtype.kind in _REAL:
            self._write_array(array)
            return
        self._write_items(_items(value) if array is None else array.reshape(-1).tolist(), depth)

    def _write_array(self, array: Any) -> None:
        """Write an array of real numbers. numpy itself writes numbers of less than 64 bits in their shortest form."""
        self._flush()
        flat = array.reshape(-1)
        short = array.dtype.kind == "f" and array.dtype.itemsize < 8
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            if short:
                self._out.add_texts(list(map(str, block)))
            else:
                self._out.add(block.astype("f8").tolist())

    def _write_items(self, items: Any, depth: int) -> None:
        if type(items) is list and len(items) > BLOCK and set(map(type, items)) == {float}:
            self._flush()
            for start in range(0, len(items), BLOCK):
                self._out.add(items[start : start + BLOCK])
            return
        for item in items:
            if type(item) is float:
                self._block.append(item)
            elif _is_nested(item):
                self._write(item, depth + 1)
            else:
                self._block.append(_number(item))
            if len(self._block) >= BLOCK:
                self._flush()


def _is_number(value: Any) -> bool:
    """Return whether a value is a single number. Arrays and tensors without dimensions are numbers too."""
    if isinstance(value, (int, float)):
        return True
    if isinstance(value, _TEXTS):
        return False
    return hasattr(type(value), "__float__") and (
        getattr(value, "shape", None) == () or not hasattr(type(value), "__iter__")
    )


def _is_nested(item: Any) -> bool:
    if isinstance(item, (int, float, *_TEXTS)):
        return False
    return (hasattr(type(item), "__iter__") or hasattr(type(item), "__array__")) and not _is_number(item)


def _find_array(value: Any) -> Any:
    """Return the array that numpy makes of an object with numpy's methods. Return None for any other value."""
    kind = type(value)
    if kind in _LISTS or isinstance(value, _TEXTS):
        return None
    convert = getattr(kind, "to_numpy", None)
    if callable(convert):
        value = convert(value)
    elif not (hasattr(kind, "__array__") or hasattr(value, "__array_interface__")):
        return None
    numpy = sys.modules.get("numpy") or _import_numpy()
    if numpy is None:
        return None
    if isinstance(value, numpy.ma.MaskedArray):  # masked numbers are missing
        value = value.astype("f8").filled(float("nan"))
    try:
        return numpy.asarray(value)
    except Exception:
        if callable(getattr(kind, "tolist", None)):
            return None  # a tensor on another device, or with a gradient
        raise


def _import_numpy() -> Optional[Any]:
    try:
        return import_module("numpy")
    except ImportError:
        return None


def _items(value: Any) -> Any:
    """Return an iterable of the items of an array, a table, a buffer or any other iterable."""
    if isinstance(value, _LISTS):
        return value
    if isinstance(value, (str, dict)):
        raise InvalidRequest("{} is no array of numbers".format(_article(value)))
    view = _find_view(value)
    if view is not None and view.format.lstrip("@=") == "f" and view.ndim == 1:
        return list(map(_shorten, view))
    method = getattr(type(value), "tolist", None)
    if callable(method):
        return _items(method(value))
    try:
        if view is not None:
            return view.tolist()
    except NotImplementedError:
        pass  # Python cannot read the format of the items
    if not hasattr(type(value), "__iter__"):
        raise InvalidRequest("{} is no array of numbers".format(_article(value)))
    return value


def _list_items(value: Any) -> Any:
    items = _items(value)
    return items if isinstance(items, _LISTS) else list(items)


def _find_view(value: Any) -> Optional[memoryview]:
    """Return the memory of a buffer, or None for any other value."""
    try:
        return memoryview(value)
    except (TypeError, ValueError):
        return None


def _shorten(single: float) -> float:
    """Return the number with the fewest digits that is `single` in 32 bits."""
    for digits in range(1 if abs(single) < _SMALLEST_NORMAL else 6, 9):
        short = float("{:.{}g}".format(single, digits))
        if _SINGLE.pack(short) == _SINGLE.pack(single):
            return short
    return float("{:.9g}".format(single))


def _number(item: Any) -> float:
    if isinstance(item, (int, float)):
        return float(item)
    kind = type(item)
    dtype: Any = getattr(item, "dtype", None)
    if getattr(dtype, "kind", "") == "f" and dtype.itemsize < 8:
        return float(str(item))  # a number of numpy, or an array without dimensions: in its shortest form
    if kind.__name__ == "NAType":  # a missing value of pandas
        return float("nan")
    if isinstance(item, _TEXTS) or not hasattr(kind, "__float__"):
        raise InvalidRequest("{} in the object is no number".format(_article(item)))
    return float(item)


def _article(value: Any) -> str:
    name = class_name(type(value))
    return "{} {}".format("an" if name[:1] in "aeiou" else "a", name)
