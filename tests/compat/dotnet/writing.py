"""Values to text, byte for byte as System.Text.Json writes them with its default encoder."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from compat.dotnet.errors import ArgumentError

SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", "\\": "\\\\"}
ESCAPED = re.compile(r"[^\x20-\x7e]|[\"&'+<>\\`]")


class Properties(dict[str, Any]):
    """An object of a class: its properties by their names in C#, in the order of the class."""


@runtime_checkable
class HasProperties(Protocol):
    def properties(self) -> Properties: ...


@dataclass(frozen=True)
class Options:
    """The JsonSerializerOptions that a client sets."""

    camel_case: bool = False
    ignore_null: bool = False

    def name(self, name: str) -> str:
        """The name of a property in JSON."""
        return name[:1].lower() + name[1:] if self.camel_case else name


def write(value: Any, options: Options) -> str:
    """The text of a value, in ASCII.

    Raises:
        ArgumentError: a number that JSON has not.
    """
    if isinstance(value, HasProperties):
        value = value.properties()
    if isinstance(value, Properties):
        kept = [
            (options.name(name), each) for name, each in value.items() if each is not None or not options.ignore_null
        ]
        return _object(kept, options)
    if isinstance(value, dict):
        return _object(list(value.items()), options)
    if isinstance(value, list):
        return f"[{','.join(write(each, options) for each in value)}]"
    return _scalar(value)


def _object(members: list[tuple[str, Any]], options: Options) -> str:
    return f"{{{','.join(f'{_text(name)}:{write(each, options)}' for name, each in members)}}}"


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _double(value)
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, datetime):
        return f'"{_date_time(value)}"'
    return str(value) if isinstance(value, int | Decimal) else _text(value)


def _text(value: str) -> str:
    return f'"{ESCAPED.sub(_escape, value)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in SHORT:
        return SHORT[char]
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02X}{units[at + 1]:02X}" for at in range(0, len(units), 2))


def _double(value: float) -> str:
    """The shortest text that reads back as the same double; from 1E+15 and below 1E-05 with an exponent."""
    if not math.isfinite(value):
        raise ArgumentError(".NET number values such as positive and negative infinity cannot be written as valid JSON")
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    assert isinstance(exponent, int)
    point = len(digits) + exponent  # digits before the decimal point
    minus = "-" if sign else ""
    if text == "0":
        return f"{minus}0"
    if point > 15 or point < -3:
        rest = f".{text[1:]}" if len(text) > 1 else ""
        return f"{minus}{text[0]}{rest}E{point - 1:+03d}"
    if point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    return minus + text.ljust(point, "0")[:point] + (f".{text[point:]}" if len(text) > point else "")


def _date_time(value: datetime) -> str:
    zone = ""
    if value.tzinfo is not None:
        zone = value.isoformat()[-6:]
    fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
    return value.replace(tzinfo=None, microsecond=0).isoformat() + fraction + zone
