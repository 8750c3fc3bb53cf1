"""The types into which a .NET program reads an answer, and how System.Text.Json reads each of them.

`read` takes a node and returns the value, or raises `JsonError` as JsonSerializer does where the value does not fit.
The options are those of the old clients: names are case-sensitive, numbers are read from numbers only, unknown members
are skipped, and of a repeated name the last one counts.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Any

from compat.dotnet.errors import InvalidOperationError, JsonError, NotSupportedError
from compat.dotnet.reading import Members, Number

CORE = "System.Private.CoreLib, Version=8.0.0.0, Culture=neutral, PublicKeyToken=7cec85d7bea7798e"
WHOLE = re.compile(r"-?\d+")
LARGEST_DECIMAL = Decimal(2**96 - 1)
DATE_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(T(?P<time>\d\d:\d\d)(?P<second>:\d\d(?P<fraction>\.\d{1,16})?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?"
)
TIME_SPAN = re.compile(r"(-)?(?:(\d{1,8})\.)?(\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?")


@dataclass(frozen=True)
class Type:
    """A type with `typeof(T).Name`, `typeof(T).FullName` and `default(T)`."""

    name: str
    full_name: str
    default: Any = None

    def read(self, node: Any) -> Any:
        raise NotImplementedError

    def refuse(self) -> JsonError:
        return JsonError(f"the JSON value could not be converted to {self.full_name}")

    @property
    def qualified(self) -> str:
        """The name as it stands between the brackets of a generic type's full name."""
        return f"[{self.full_name}, {CORE}]"


@dataclass(frozen=True)
class Integer(Type):
    default: Any = 0
    least: int = 0
    most: int = 0

    def read(self, node: Any) -> Any:
        if not isinstance(node, Number) or not WHOLE.fullmatch(node) or not self.least <= int(node) <= self.most:
            raise self.refuse()
        return int(node)


def _integer(name: str, bits: int, signed: bool) -> Integer:
    span = 1 << bits
    least = -span // 2 if signed else 0
    return Integer(name, f"System.{name}", least=least, most=least + span - 1)


class Double(Type):
    def read(self, node: Any) -> float:
        if not isinstance(node, Number):
            raise self.refuse()
        return float(node)


class Single(Type):
    def read(self, node: Any) -> float:
        if not isinstance(node, Number):
            raise self.refuse()
        return to_single(float(node))


def to_single(value: float) -> float:
    """The float32 nearest to a number; infinity beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


class DecimalType(Type):
    def read(self, node: Any) -> Decimal:
        if not isinstance(node, Number):
            raise self.refuse()
        value = Context(prec=29).create_decimal(node)
        if abs(value) > LARGEST_DECIMAL:
            raise self.refuse()
        return value


class Boolean(Type):
    def read(self, node: Any) -> bool:
        if not isinstance(node, bool):
            raise self.refuse()
        return node


class String(Type):
    def read(self, node: Any) -> str | None:
        return None if node is None else text_of(node, self)


def text_of(node: Any, wanted: Type) -> str:
    """The text of a string token; half of a surrogate pair is no text."""
    if isinstance(node, Number) or not isinstance(node, str):
        raise wanted.refuse()
    try:
        node.encode()
    except UnicodeEncodeError:
        raise wanted.refuse() from None
    return node


class DateTimeType(Type):
    """System.DateTime; a value with an offset becomes one in UTC here, where .NET takes the local zone."""

    def read(self, node: Any) -> datetime:
        match = DATE_TIME.fullmatch(text_of(node, self))
        if match is None:
            raise self.refuse()
        digits = (match["fraction"] or ".")[1:7]
        try:
            day = datetime.fromisoformat(match["date"])
            clock = time.fromisoformat((match["time"] or "00:00") + ((match["second"] or ":00")[:3]))
            zone = datetime.fromisoformat(f"2000-01-01T00:00:00{match['zone'] or ''}").tzinfo
        except ValueError:
            raise self.refuse() from None
        value = datetime.combine(day, clock, zone).replace(microsecond=int(digits.ljust(6, "0")))
        return value if zone is None else value.astimezone(UTC)


class DateOnly(Type):
    def read(self, node: Any) -> date:
        text = text_of(node, self)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            raise self.refuse()
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise self.refuse() from None


class TimeSpan(Type):
    """System.TimeSpan: text in the format `c`, `[-][d.]hh:mm:ss[.fffffff]`."""

    def read(self, node: Any) -> timedelta:
        match = TIME_SPAN.fullmatch(text_of(node, self))
        if match is None:
            raise self.refuse()
        sign, days, hours, minutes, seconds, fraction = match.groups()
        if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 59:
            raise self.refuse()
        value = timedelta(int(days or 0), int(seconds), int((fraction or "0").ljust(6, "0")[:6]), 0, int(minutes))
        value += timedelta(hours=int(hours))
        return -value if sign else value


class ByteArray(Type):
    def read(self, node: Any) -> bytes | None:
        if node is None:
            return None
        try:
            return base64.b64decode(text_of(node, self), validate=True)
        except (binascii.Error, ValueError):
            raise self.refuse() from None


@dataclass(frozen=True)
class JsonElement:
    """System.Text.Json.JsonElement: a node that is read later."""

    node: Any

    def natural(self) -> Any:
        """The value as the program would read it: integers exact, other numbers as doubles."""
        return _natural(self.node)

    def __getitem__(self, name: str) -> JsonElement:
        """GetProperty: the last member of this name."""
        if not isinstance(self.node, Members):
            raise InvalidOperationError("the element is no object")
        values = [value for key, value in self.node.pairs if key == name]
        if not values:
            raise KeyError(name)
        return JsonElement(values[-1])


def _natural(node: Any) -> Any:
    if isinstance(node, Number):
        return int(node) if WHOLE.fullmatch(node) else float(node)
    if isinstance(node, list):
        return [_natural(part) for part in node]
    if isinstance(node, Members):
        return {name: _natural(part) for name, part in node.pairs}
    return node


class Element(Type):
    """JsonElement as a type of its own: null is an element too."""

    def read(self, node: Any) -> JsonElement:
        return JsonElement(node)


class Object(Type):
    """System.Object: System.Text.Json makes a JsonElement of everything but null."""

    def read(self, node: Any) -> JsonElement | None:
        return None if node is None else JsonElement(node)


class Interface(Type):
    """An interface has no constructor: only null can be read."""

    def read(self, node: Any) -> None:
        if node is not None:
            raise NotSupportedError(f"deserialization of interface types is not supported: {self.full_name}")


@dataclass(frozen=True)
class Items(Type):
    """An array or a list."""

    item: Type = field(kw_only=True)

    def read(self, node: Any) -> list[Any] | None:
        if node is None:
            return None
        if not isinstance(node, list):
            raise self.refuse()
        return [self.item.read(part) for part in node]


@dataclass(frozen=True)
class Dictionary(Type):
    """Dictionary<string, TValue>."""

    item: Type = field(kw_only=True)

    def read(self, node: Any) -> dict[str, Any] | None:
        if node is None:
            return None
        if not isinstance(node, Members):
            raise self.refuse()
        return {name: self.item.read(part) for name, part in node.pairs}


@dataclass(frozen=True)
class Nullable(Type):
    item: Type = field(kw_only=True)

    def read(self, node: Any) -> Any:
        return None if node is None else self.item.read(node)


@dataclass(frozen=True)
class Record(Type):
    """A class with properties, which are here under their names in JSON."""

    properties: dict[str, Type] = field(kw_only=True)

    def read(self, node: Any) -> dict[str, Any] | None:
        if node is None:
            return None
        if not isinstance(node, Members):
            raise self.refuse()
        values = {name: kind.default for name, kind in self.properties.items()}
        for name, part in node.pairs:
            if name in self.properties:
                values[name] = self.properties[name].read(part)
        return values


INT32 = _integer("Int32", 32, signed=True)
INT64 = _integer("Int64", 64, signed=True)
UINT64 = _integer("UInt64", 64, signed=False)
BYTE = _integer("Byte", 8, signed=False)
DOUBLE = Double("Double", "System.Double", 0.0)
SINGLE = Single("Single", "System.Single", 0.0)
DECIMAL = DecimalType("Decimal", "System.Decimal", Decimal(0))
BOOLEAN = Boolean("Boolean", "System.Boolean", default=False)
STRING = String("String", "System.String")
DATETIME = DateTimeType("DateTime", "System.DateTime", datetime(1, 1, 1))  # noqa: DTZ001
DATE_ONLY = DateOnly("DateOnly", "System.DateOnly", date.min)
TIMESPAN = TimeSpan("TimeSpan", "System.TimeSpan", timedelta())
BYTES = ByteArray("Byte[]", "System.Byte[]")
OBJECT = Object("Object", "System.Object")
JSON_ELEMENT = Element("JsonElement", "System.Text.Json.JsonElement", JsonElement("undefined"))
HANDLE = Interface("IPythonObjectHandle", "Beep.Python.RuntimeEngine.IPythonObjectHandle")


def array(item: Type) -> Items:
    return Items(f"{item.name}[]", f"{item.full_name}[]", item=item)


def listed(item: Type) -> Items:
    return Items("List`1", f"System.Collections.Generic.List`1[{item.qualified}]", item=item)


def dictionary(item: Type) -> Dictionary:
    full = f"System.Collections.Generic.Dictionary`2[{STRING.qualified},{item.qualified}]"
    return Dictionary("Dictionary`2", full, item=item)


def nullable(item: Type) -> Nullable:
    return Nullable("Nullable`1", f"System.Nullable`1[{item.qualified}]", item=item)


def record(name: str, /, **properties: Type) -> Record:
    return Record(name, f"Program+{name}", properties=properties)
