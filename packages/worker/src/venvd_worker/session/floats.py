"""Objects as arrays of floats: `tofloatarray` and `tofloatarray2d`; numpy is not needed for it."""

from __future__ import annotations

from typing import Any, List

from venvd_contract.errors import InvalidRequest
from venvd_worker.session.tracebacks import class_name

_TEXTS = (str, bytes, bytearray, dict)
_DEEPEST = 32


def flat(value: Any) -> List[float]:
    """All numbers of a nested sequence or a buffer, in order.

    Raises:
        InvalidRequest: it holds what is no number; says what.
    """
    found: List[float] = []
    _gather(_items(value), found, 0)
    return found


def rows(value: Any) -> List[List[float]]:
    """The rows of a sequence of sequences, which need not be of one length; a flat sequence is one row."""
    items = list(_items(value))
    if items and not any(map(_is_nested, items)):
        return [flat(items)]
    return [_row(item) for item in items]


def _row(item: Any) -> List[float]:
    row = list(_items(item))
    if any(map(_is_nested, row)):
        raise InvalidRequest("the object has more than two dimensions")
    return [_number(one) for one in row]


def _gather(items: Any, found: List[float], depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidRequest("the object is nested more than {} levels deep".format(_DEEPEST))
    for item in items:
        if type(item) is float:
            found.append(item)
        elif _is_nested(item):
            _gather(_items(item), found, depth + 1)
        else:
            found.append(_number(item))


def _is_nested(item: Any) -> bool:
    if isinstance(item, (int, float, *_TEXTS)):
        return False
    return hasattr(type(item), "__iter__") and getattr(item, "shape", None) != ()


def _items(value: Any) -> Any:
    """Something to walk over: what an array or a table gives as lists, what a buffer holds, or the object itself."""
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
        pass  # no buffer, or one of a format that has no numbers
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
