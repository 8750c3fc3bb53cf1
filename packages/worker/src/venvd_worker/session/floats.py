"""Turn objects into arrays of floats, for `tofloatarray` and `tofloatarray2d`. This needs no numpy."""

from __future__ import annotations

from typing import Any, List

from venvd_contract.errors import InvalidRequest
from venvd_worker.session.tracebacks import class_name

_TEXTS = (str, bytes, bytearray, dict)
_DEEPEST = 32


def flat(value: Any) -> List[float]:
    """Return all numbers of a nested sequence or a buffer, in order.

    Raises:
        InvalidRequest: the value is no array, is nested too deeply, or holds something that is no number.
    """
    numbers: List[float] = []
    _gather(_items(value), numbers, 0)
    return numbers


def rows(value: Any) -> List[List[float]]:
    """Return the rows of a sequence of sequences. Rows may differ in length. A flat sequence is one row.

    Raises:
        InvalidRequest: the value is no array, has more than two dimensions, or holds something that is no number.
    """
    items = list(_items(value))
    if items and not any(map(_is_nested, items)):
        return [flat(items)]
    return [_row(item) for item in items]


def _row(item: Any) -> List[float]:
    row = list(_items(item))
    if any(map(_is_nested, row)):
        raise InvalidRequest("the object has more than two dimensions")
    return [_number(entry) for entry in row]


def _gather(items: Any, numbers: List[float], depth: int) -> None:
    """Append all numbers in `items` to `numbers`."""
    if depth > _DEEPEST:
        raise InvalidRequest("the object is nested more than {} levels deep".format(_DEEPEST))
    for item in items:
        if type(item) is float:
            numbers.append(item)
        elif _is_nested(item):
            _gather(_items(item), numbers, depth + 1)
        else:
            numbers.append(_number(item))


def _is_nested(item: Any) -> bool:
    if isinstance(item, (int, float, *_TEXTS)):
        return False
    return hasattr(type(item), "__iter__") and getattr(item, "shape", None) != ()


def _items(value: Any) -> Any:
    """Return an iterable of the items of an array, a table, a buffer or any other iterable."""
    if isinstance(value, (list, tuple, range)):
        return value
    if isinstance(value, (str, dict)):
        raise InvalidRequest("{} is no array of numbers".format(_article(value)))
    for name in ("to_numpy", "tolist"):
        method = getattr(type(value), name, None)
        if callable(method):
            return _items(method(value))
    try:
        return memoryview(value).tolist()
    except (TypeError, ValueError, NotImplementedError):
        pass  # the value is no buffer, or Python cannot read the format of its items
    if not hasattr(type(value), "__iter__"):
        raise InvalidRequest("{} is no array of numbers".format(_article(value)))
    return value


def _number(item: Any) -> float:
    if isinstance(item, _TEXTS) or not hasattr(type(item), "__float__"):
        raise InvalidRequest("{} in the object is no number".format(_article(item)))
    return float(item)


def _article(value: Any) -> str:
    name = class_name(type(value))
    return "{} {}".format("an" if name[:1] in "aeiou" else "a", name)
