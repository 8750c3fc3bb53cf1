"""Python values as JSON and back, in the modes `plain` and `tagged`.

Mode `plain` is natural JSON, as any JSON library reads it. It loses what JSON lacks, and it never tags. Mode `tagged`
loses nothing: what JSON lacks is an object with one key that starts with `$`. Requests may use both modes.

| Python | `plain` | `tagged` |
|---|---|---|
| None, bool, str, list, int up to ±2^53, finite float | themselves | themselves |
| other int | number | `$int` |
| NaN, infinities | null | `$float` |
| bytes, bytearray | base64 | `$bytes` |
| Decimal | number; null if not finite | `$decimal` |
| datetime, date, time, timedelta | ISO 8601 | `$datetime`, `$date`, `$time`, `$timedelta` |
| tuple, set, frozenset | array | `$tuple`, `$set`, `$frozenset` |
| dict with str keys | object | object; `$dict` if a key starts with `$` |
| dict with int, float, bool, None keys | object, with the keys that `json.dumps` writes | `$dict` |
| dict with other keys | no form | `$dict` |
| complex | no form | `$complex` |
| numpy scalar of a number, bool, str, bytes | as the Python value | as the Python value |
| numpy datetime64, timedelta64 | ISO 8601; null for NaT | no form |
| subclass of the types above (IntEnum, namedtuple, pandas Timestamp, …) | as its base | no form |
| pandas NaT, NA | null | no form |

Requests to a session may also hold `{"$import": "module:name"}`, what that name stands for in the session, and
`{"$call": [callable, [arguments], {keyword arguments}]}`, what a call returns there.

docs/values.md has the same table with an example for each row. What has no form stays behind a handle: also keys of a
dict that would become the same text, a str that is no Unicode, and an int of more than 100,000 digits.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any, Callable, Dict, Optional, Type

from venvd_contract.durations import count_nanoseconds, parse_timedelta, write_duration
from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_contract.framing import Number

MAX_DEPTH = 100
"""The deepest nesting of a value. A scalar has depth 0, `[[1]]` has depth 2."""
SAFE_INTEGER = 2**53
"""Larger integers are tagged in mode `tagged`: JavaScript and others would round them."""

_WRITABLE_BITS = 2048
"""Python writes integers of up to so many bits, whatever `sys.set_int_max_str_digits` says."""
_LONGEST_BITS = 332_192
"""Bits of the longest integer that becomes a number: it has 100,000 digits, and takes half a second."""

Resolve = Callable[[str], Any]
FindHandle = Callable[[Dict[str, Any]], Optional[str]]
FindObject = Callable[[str], Any]
Write = Callable[[Any], Any]
"""Returns the JSON form of a value; raises `NotPlain` if it has none."""


class NotPlain(Exception):
    """The value, or something inside it, has no JSON form. It stays behind a handle."""


def _too_deep() -> TooLarge:
    return TooLarge("the value is nested more than {} levels deep".format(MAX_DEPTH))


# ---- to JSON ---------------------------------------------------------------------------------------------------


class Encoder:
    """Encodes values; the two modes are subclasses.

    Args:
        scalars: write the values of each type that has no items.
        fallback: called with each value that has no form in the mode; returns its JSON form or raises `NotPlain`.
    """

    def __init__(self, scalars: Dict[Type[Any], Write], fallback: Optional[Write]) -> None:
        self._scalars = scalars
        self._fallback = fallback

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return the JSON form of `value`, for `venvd_contract.framing.dump`.

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
        scalar = self._scalars.get(kind)
        if scalar is not None:
            return scalar(value)
        if kind in _CONTAINERS and depth >= MAX_DEPTH:
            raise _too_deep()
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        if kind in _DICTS:
            return self._dict(value, depth + 1)
        if kind in _SEQUENCES:
            return self._sequence(value, depth + 1)
        return self._other(value, depth)

    def _dict(self, value: Dict[Any, Any], depth: int) -> Any:
        raise NotImplementedError

    def _sequence(self, value: Any, depth: int) -> Any:
        raise NotImplementedError

    def _other(self, value: Any, depth: int) -> Any:
        if _numpy_kind(value) in tuple("biufcSU"):
            scalar = value.item()
            if type(scalar).__module__ != "numpy":
                return self.encode(scalar, depth)
        if self._fallback is not None:
            return self._fallback(value)
        raise NotPlain(type(value).__name__)


def _numpy_kind(value: Any) -> str:
    """Return the kind of a numpy scalar in numpy's notation; empty for other values. This does not import numpy."""
    kind = type(value)
    if kind.__module__ != "numpy" or kind.__name__ == "ndarray" or getattr(value, "shape", None) != ():
        return ""
    return getattr(getattr(value, "dtype", None), "kind", "") if hasattr(value, "__array_interface__") else ""


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # not every JSON reader accepts lone surrogates
            raise NotPlain("str") from None
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_DICTS = frozenset({dict, OrderedDict, defaultdict, Counter})
_SEQUENCES: Dict[Type[Any], str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_CONTAINERS = frozenset({list, *_DICTS, *_SEQUENCES})


# ---- mode `tagged`


class TaggedEncoder(Encoder):
    """Encodes values for mode `tagged`."""

    def __init__(self, fallback: Optional[Write] = None) -> None:
        super().__init__(_TAGGED if fallback is None else {**_TAGGED, str: self._text}, fallback)

    def _text(self, value: str) -> Any:
        try:
            return _text(value)
        except NotPlain:
            return self._other(value, 0)

    def _dict(self, value: Dict[Any, Any], depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {_text(key): self.encode(item, depth) for key, item in value.items()}
        return {"$dict": [[self.encode(key, depth), self.encode(item, depth)] for key, item in value.items()]}

    def _sequence(self, value: Any, depth: int) -> Any:
        return {_SEQUENCES[type(value)]: [self.encode(item, depth) for item in value]}


def _tag_integer(value: int) -> Any:
    if -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return value
    try:
        return {"$int": str(value)}
    except ValueError:  # this interpreter limits the number of digits
        raise NotPlain("int") from None


def _tag_real(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


_TAGGED: Dict[Type[Any], Write] = {
    int: _tag_integer,
    float: _tag_real,
    str: _text,
    bytes: lambda value: {"$bytes": _base64(value)},
    bytearray: lambda value: {"$bytes": _base64(value)},
    complex: lambda value: {"$complex": [_tag_real(value.real), _tag_real(value.imag)]},
    decimal.Decimal: lambda value: {"$decimal": str(value)},
    dt.datetime: lambda value: {"$datetime": value.isoformat()},
    dt.date: lambda value: {"$date": value.isoformat()},
    dt.time: lambda value: {"$time": value.isoformat()},
    dt.timedelta: lambda value: {"$timedelta": write_duration(count_nanoseconds(value))},
}


# ---- mode `plain`


class PlainEncoder(Encoder):
    """Encodes values for mode `plain`."""

    def __init__(self, fallback: Optional[Write] = None) -> None:
        super().__init__(_PLAIN, fallback)

    def _dict(self, value: Dict[Any, Any], depth: int) -> Any:
        data = {
            key if type(key) is str and key.isascii() else _plain_key(key): self.encode(item, depth)
            for key, item in value.items()
        }
        if len(data) != len(value):  # two keys became the same text, and one of the items is lost
            raise NotPlain(type(value).__name__)
        return data

    def _sequence(self, value: Any, depth: int) -> Any:
        return [self.encode(item, depth) for item in value]

    def _other(self, value: Any, depth: int) -> Any:
        kind = type(value)
        for base, write in _PLAIN.items():
            if issubclass(kind, base):
                return write(value)
        if issubclass(kind, (dict, list, *_SEQUENCES)):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            return self._dict(value, depth + 1) if issubclass(kind, dict) else self._sequence(value, depth + 1)
        numpy_kind = _numpy_kind(value)
        if numpy_kind in ("M", "m"):
            return _plain_numpy_time(value)
        if numpy_kind == "f":  # also those that no Python float holds
            return _plain_real(float(value))
        if kind.__name__ == "NAType" and str(kind.__module__).startswith("pandas."):
            return None
        return super()._other(value, depth)


def _plain_integer(value: int) -> Any:
    bits = value.bit_length()
    if bits <= _WRITABLE_BITS:
        return int.__pos__(value)
    if bits > _LONGEST_BITS:
        raise NotPlain("int")
    return Number(str(decimal.Decimal(value)))  # no limit on digits stops a decimal


def _plain_real(value: float) -> Optional[float]:
    return float.__pos__(value) if math.isfinite(value) else None


def _plain_decimal(value: decimal.Decimal) -> Optional[Number]:
    return Number(decimal.Decimal.__str__(value)) if decimal.Decimal.is_finite(value) else None


def _plain_time(value: Any) -> Optional[str]:
    text: str = value.isoformat()
    return None if text == "NaT" else text  # pandas' NaT is a datetime


def _plain_numpy_time(value: Any) -> Optional[str]:
    """Write a datetime64 or timedelta64. As Python values, numpy makes those with nanoseconds mere integers."""
    item = value.item()
    if item is None:
        return None
    if value.dtype.kind == "M":
        return str(value) if type(item) is int else str(item.isoformat())
    if type(item) is dt.timedelta:
        return write_duration(count_nanoseconds(item))
    if not value.dtype.str.endswith("8[ns]"):
        raise NotPlain(type(value).__name__)
    return write_duration(item)


def _plain_key(key: Any) -> str:
    """Write a key as `json.dumps` does."""
    kind = type(key)
    if issubclass(kind, str):
        return _text(str.__str__(key))
    if key is None or kind is bool:
        return "null" if key is None else "true" if key else "false"
    if issubclass(kind, int):
        return str(_plain_integer(key))
    if issubclass(kind, float):
        return repr(float.__pos__(key)) if math.isfinite(key) else _NOT_FINITE[repr(float.__pos__(key))]
    if _numpy_kind(key) in tuple("biuU"):
        return _plain_key(key.item())
    if _numpy_kind(key) == "f":
        return _plain_key(float(key))
    raise NotPlain(kind.__name__)


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_PLAIN: Dict[Type[Any], Write] = {
    str: lambda value: _text(str.__str__(value)),
    int: _plain_integer,
    float: _plain_real,
    bytes: _base64,
    bytearray: _base64,
    decimal.Decimal: _plain_decimal,
    dt.datetime: _plain_time,
    dt.date: _plain_time,
    dt.time: _plain_time,
    dt.timedelta: lambda value: write_duration(count_nanoseconds(value)),
}
"""How each scalar and its subclasses are written, datetime before its base date."""


# ---- from JSON -------------------------------------------------------------------------------------------------


_ATOMS = frozenset({int, float, str, bool, type(None)})
"""JSON types without items. They stand for themselves."""


class Decoder:
    """Decodes JSON data.

    Args:
        resolve: returns the object of a handle.
        find_handle: returns the handle that an object without a tag stands for, if it is one.
        find_object: imports what `$import` names. Without it, `$import` and `$call` are no tags: only a session, which
            runs its client's code anyway, may take them.
    """

    def __init__(
        self,
        resolve: Optional[Resolve] = None,
        find_handle: Optional[FindHandle] = None,
        find_object: Optional[FindObject] = None,
    ) -> None:
        self._resolve = resolve
        self._find_handle = find_handle
        self._find_object = find_object

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
            elif self._find_handle is not None:
                handle = self._find_handle(data)
                if handle is not None:
                    return self._handle(handle)
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
                return container(self.decode(_require_list(data), depth))
            scalar = _TAGGED_SCALARS.get(tag)
            if scalar is None:
                if self._find_object is None or tag not in _OBJECT_TAGS:
                    raise InvalidRequest(_unknown_tag(tag))
                if tag == "$import":
                    return self._find_object(_string(data))
                call = self.decode(_require_list(data), depth)
            else:
                return scalar(data)
        except (TypeError, ValueError, ArithmeticError, binascii.Error) as error:
            raise InvalidRequest("bad value for {}: {}".format(tag, error)) from None
        return _call(call)

    def _handle(self, data: Any) -> Any:
        if type(data) is not str:
            raise TypeError("a handle is a string")
        if self._resolve is None:
            raise InvalidRequest("a handle has no meaning here")
        return self._resolve(data)


def _call(parts: Any) -> Any:
    """Call what `$call` names. Its errors are those of user code."""
    if not 2 <= len(parts) <= 3 or type(parts[1]) is not list or (len(parts) == 3 and type(parts[2]) is not dict):
        raise InvalidRequest("bad value for $call: [callable, [arguments], {keyword arguments}] is needed")
    return parts[0](*parts[1], **(parts[2] if len(parts) == 3 else {}))


def _unknown_tag(tag: str) -> str:
    known = ", ".join(sorted({"$handle", "$dict", *_TAGGED_CONTAINERS, *_TAGGED_SCALARS}))
    return 'unknown tag {}: known are {}; a key that starts with $ is written {{"$dict": [[key, value]]}}'.format(
        tag[:40], known
    )


def _require_list(data: Any) -> Any:
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
    real, imaginary = _require_list(data)
    return complex(_number(real), _number(imaginary))


def _iso(kind: Any) -> Callable[[Any], Any]:
    def parse(data: Any) -> Any:
        text = _string(data)
        # before CPython 3.11, fromisoformat does not accept Z
        return kind.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)

    return parse


_OBJECT_TAGS = frozenset({"$import", "$call"})
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
