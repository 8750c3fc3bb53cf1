"""Python values as JSON and back, in the modes `plain` and `tagged`.

JSON data stands for itself. A value that JSON lacks is an object with one key that starts with `$`. Mode `plain` turns
tuples and sets into arrays, mode `tagged` keeps them. Requests may use both modes.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any, Callable, Dict, Optional, Type

from venvd_contract.errors import InvalidRequest, TooLarge

MAX_DEPTH = 100
"""The deepest nesting of a value. A scalar has depth 0, `[[1]]` has depth 2."""
SAFE_INTEGER = 2**53
"""Larger integers are tagged: JavaScript and others would round them."""

Resolve = Callable[[str], Any]


class NotPlain(Exception):
    """The value, or something inside it, has no JSON form. It stays behind a handle."""


def _too_deep() -> TooLarge:
    return TooLarge("the value is nested more than {} levels deep".format(MAX_DEPTH))


# ---- to JSON ---------------------------------------------------------------------------------------------------


class Encoder:
    """Encodes values for one mode.

    Args:
        tagged: use mode `tagged`, which keeps tuples and sets.
        fallback: called with each value that is not plain data; returns its JSON form or raises `NotPlain`.
    """

    def __init__(self, tagged: bool = False, fallback: Optional[Callable[[Any], Any]] = None) -> None:
        self.tagged = tagged
        self._fallback = fallback

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return the JSON form of `value`.

        Raises:
            NotPlain: the value has no JSON form.
            TooLarge: the value is nested deeper than `MAX_DEPTH`, like any value that contains itself.
        """
        kind = type(value)
        if (
            (kind is int and -SAFE_INTEGER <= value <= SAFE_INTEGER)
            or (kind is str and value.isascii())
            or kind is bool
            or value is None
        ):
            return value
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        if kind in _CONTAINERS and depth >= MAX_DEPTH:
            raise _too_deep()
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        if kind in _DICTS:
            return self._dict(value, depth + 1)
        tag = _SEQUENCES.get(kind)
        if tag is not None:
            items = [self.encode(item, depth + 1) for item in value]
            return {tag: items} if self.tagged else items
        return self._other(value, depth)

    def _dict(self, value: Dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {_text(key): self.encode(item, depth) for key, item in value.items()}
        return {"$dict": [[self.encode(key, depth), self.encode(item, depth)] for key, item in value.items()]}

    def _other(self, value: Any, depth: int) -> Any:
        scalar = _numpy_scalar(value)
        if scalar is not None:
            return self.encode(scalar, depth)
        if self._fallback is not None:
            return self._fallback(value)
        raise NotPlain(type(value).__name__)


def _integer(value: int) -> Any:
    if -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return value
    try:
        return {"$int": str(value)}
    except ValueError:  # this interpreter limits the number of digits
        raise NotPlain("int") from None


def _real(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # not every JSON reader accepts lone surrogates
            raise NotPlain("str") from None
    return value


def _bytes(value: bytes) -> Any:
    return {"$bytes": base64.b64encode(value).decode("ascii")}


def _timedelta(value: dt.timedelta) -> Any:
    fraction = ".{:06d}".format(value.microseconds) if value.microseconds else ""
    return {"$timedelta": "P{}DT{}{}S".format(value.days, value.seconds, fraction)}


_SCALARS: Dict[Type[Any], Callable[[Any], Any]] = {
    int: _integer,
    float: _real,
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    complex: lambda value: {"$complex": [_real(value.real), _real(value.imag)]},
    decimal.Decimal: lambda value: {"$decimal": str(value)},
    dt.datetime: lambda value: {"$datetime": value.isoformat()},
    dt.date: lambda value: {"$date": value.isoformat()},
    dt.time: lambda value: {"$time": value.isoformat()},
    dt.timedelta: _timedelta,
}
_DICTS = frozenset({dict, OrderedDict, defaultdict, Counter})
_SEQUENCES: Dict[Type[Any], str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_CONTAINERS = frozenset({list, *_DICTS, *_SEQUENCES})


def _numpy_scalar(value: Any) -> Any:
    """Return a numpy scalar as a Python value, or None. This does not import numpy."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") not in tuple("biufcSU"):
        return None
    if not hasattr(value, "__array_interface__") or type(value).__name__ == "ndarray":
        return None
    scalar = value.item()
    return None if type(scalar).__module__ == "numpy" else scalar


# ---- from JSON -------------------------------------------------------------------------------------------------


_ATOMS = frozenset({int, float, str, bool, type(None)})
"""JSON types without items. They stand for themselves."""


class Decoder:
    """Decodes JSON data. `resolve` returns the object of a handle."""

    def __init__(self, resolve: Optional[Resolve] = None) -> None:
        self._resolve = resolve

    def decode(self, data: Any, depth: int = 0) -> Any:
        """Return the value of JSON data.

        Raises:
            InvalidRequest: a tag is unknown or has a bad value. The message names it.
            TooLarge: the data is nested deeper than `MAX_DEPTH`.
            HandleNotFound: `resolve` did not find a handle.
        """
        kind = type(data)
        if kind is list:
            if depth >= MAX_DEPTH:
                raise _too_deep()
            return [item if type(item) in _ATOMS else self.decode(item, depth + 1) for item in data]
        if kind is dict:
            if depth >= MAX_DEPTH:
                raise _too_deep()
            if len(data) == 1:
                ((key, item),) = data.items()
                if key.startswith("$"):
                    return self._tag(key, item, depth)
            return {key: item if type(item) in _ATOMS else self.decode(item, depth + 1) for key, item in data.items()}
        return data

    def _tag(self, tag: str, data: Any, depth: int) -> Any:
        container = _TAGGED_CONTAINERS.get(tag)
        try:
            if tag == "$handle":
                return self._handle(data)
            if tag == "$dict":
                return {self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in data}
            if container is not None:
                return container(self.decode(_listed(data), depth))
            scalar = _TAGGED_SCALARS.get(tag)
            if scalar is None:
                raise InvalidRequest(_unknown_tag(tag))
            return scalar(data)
        except (TypeError, ValueError, ArithmeticError, binascii.Error) as error:
            raise InvalidRequest("bad value for {}: {}".format(tag, error)) from None

    def _handle(self, data: Any) -> Any:
        if type(data) is not str:
            raise TypeError("a handle is a string")
        if self._resolve is None:
            raise InvalidRequest("a handle has no meaning here")
        return self._resolve(data)


def _unknown_tag(tag: str) -> str:
    known = ", ".join(sorted({"$handle", "$dict", *_TAGGED_CONTAINERS, *_TAGGED_SCALARS}))
    return 'unknown tag {}: known are {}; a key that starts with $ is written {{"$dict": [[key, value]]}}'.format(
        tag[:40], known
    )


def _listed(data: Any) -> Any:
    if type(data) is not list:
        raise TypeError("an array is needed, not {}".format(type(data).__name__))
    return data


def _string(data: Any) -> str:
    if type(data) is not str:
        raise TypeError("a string is needed, not {}".format(type(data).__name__))
    return data


def _float(data: Any) -> float:
    if data not in ("nan", "inf", "-inf"):
        raise ValueError('"nan", "inf" or "-inf" is needed')
    return float(data)


def _number(data: Any) -> float:
    if type(data) is dict:
        return _float(data.get("$float"))
    if type(data) not in (int, float):
        raise TypeError("a number is needed, not {}".format(type(data).__name__))
    return float(data)


def _complex(data: Any) -> complex:
    real, imaginary = _listed(data)
    return complex(_number(real), _number(imaginary))


def parse_timedelta(text: str) -> dt.timedelta:
    """Parse an ISO 8601 duration of days, hours, minutes and seconds, such as `P1DT2.5S` or `-P1D`.

    Raises:
        ValueError: the text is no such duration.
    """
    body = _string(text)
    sign = -1 if body.startswith("-") else 1
    body = body.lstrip("+-")
    if not body.startswith("P") or len(body) < 3:
        raise ValueError("an ISO 8601 duration such as P1DT2.5S is needed")
    days, separator, clock = body[1:].partition("T")
    if separator and not clock:
        raise ValueError("an ISO 8601 duration has something behind its T")
    parts = dict.fromkeys("DHMS", 0.0)
    for text_of_units, units in ((days, "D"), (clock, "HMS")):
        left = text_of_units
        for unit in units:
            number, separator, rest = left.partition(unit)
            if separator:
                parts[unit], left = float(number), rest
        if left:
            raise ValueError("an ISO 8601 duration in days, hours, minutes and seconds is needed")
    whole = dt.timedelta(days=parts["D"], hours=parts["H"], minutes=parts["M"], seconds=parts["S"])
    return sign * whole


def _iso(kind: Any) -> Callable[[Any], Any]:
    def parse(data: Any) -> Any:
        text = _string(data)
        # before CPython 3.11, fromisoformat does not accept Z
        return kind.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)

    return parse


_TAGGED_CONTAINERS: Dict[str, Callable[[Any], Any]] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
_TAGGED_SCALARS: Dict[str, Callable[[Any], Any]] = {
    "$float": _float,
    "$int": lambda data: int(_string(data)),
    "$bytes": lambda data: base64.b64decode(_string(data), validate=True),
    "$complex": _complex,
    "$decimal": lambda data: decimal.Decimal(_string(data)),
    "$datetime": _iso(dt.datetime),
    "$date": _iso(dt.date),
    "$time": _iso(dt.time),
    "$timedelta": parse_timedelta,
}
