"""The doubles read and write JSON as System.Text.Json does with the options of the old clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from compat.clients import ModuleHandle, ObjectHandle
from compat.dotnet.errors import ArgumentError, JsonError, NotSupportedError
from compat.dotnet.reading import parse
from compat.dotnet.types import (
    BOOLEAN,
    BYTE,
    BYTES,
    DATE_ONLY,
    DATETIME,
    DECIMAL,
    DOUBLE,
    HANDLE,
    INT32,
    INT64,
    JSON_ELEMENT,
    OBJECT,
    SINGLE,
    STRING,
    TIMESPAN,
    UINT64,
    JsonElement,
    Type,
    array,
    dictionary,
    listed,
    nullable,
    record,
)
from compat.dotnet.writing import Options, Properties, write

READ = [
    (INT32, "-2147483648", -(2**31)),
    (INT32, "-0", 0),
    (INT64, "9223372036854775807", 2**63 - 1),
    (UINT64, "18446744073709551615", 2**64 - 1),
    (DOUBLE, "1", 1.0),
    (DOUBLE, "1E400", float("inf")),
    (SINGLE, "0.1", 0.10000000149011612),
    (SINGLE, "1e300", float("inf")),
    (DECIMAL, "1.10", Decimal("1.10")),
    (BOOLEAN, "true", True),
    (STRING, '"\\ud83d\\ude00\\u2603"', "\U0001f600\u2603"),
    (STRING, "null", None),
    (BYTES, '"AP8="', b"\x00\xff"),
    (DATETIME, '"2024-02-29T01:02:03.0405060"', datetime(2024, 2, 29, 1, 2, 3, 40506)),  # noqa: DTZ001
    (DATETIME, '"2024-02-29T03:00:00+02:00"', datetime(2024, 2, 29, 1, tzinfo=UTC)),
    (DATETIME, '"2024-02-29"', datetime(2024, 2, 29)),  # noqa: DTZ001
    (DATE_ONLY, '"2024-02-29"', datetime(2024, 2, 29).date()),  # noqa: DTZ001
    (TIMESPAN, '"-1.02:03:04.5"', -timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=500)),
    (nullable(INT32), "null", None),
    (array(nullable(INT32)), "[1, null]", [1, None]),
    (listed(STRING), "null", None),
    (dictionary(INT32), '{"a": 1, "a": 2}', {"a": 2}),
    (record("P", name=STRING, age=INT32), '{"Name": "x", "name": "y", "more": [1]}', {"name": "y", "age": 0}),
    (record("P", name=STRING), "null", None),
    (OBJECT, "null", None),
    (JSON_ELEMENT, "null", JsonElement(None)),
    (HANDLE, "null", None),
]
REFUSED = [
    (INT32, "2147483648"),
    (INT32, "1.0"),
    (INT32, "1e3"),
    (INT32, '"1"'),
    (INT32, "null"),
    (INT32, "true"),
    (INT64, "9223372036854775808"),
    (UINT64, "-1"),
    (BYTE, "256"),
    (DOUBLE, '"1.5"'),
    (DOUBLE, "null"),
    (DOUBLE, "NaN"),
    (DOUBLE, "-Infinity"),
    (DOUBLE, "01"),
    (DOUBLE, "1."),
    (DECIMAL, "79228162514264337593543950336"),
    (BOOLEAN, "1"),
    (BOOLEAN, '"true"'),
    (STRING, "1"),
    (STRING, '"\\ud83d"'),
    (STRING, '"a\nb"'),
    (STRING, "'a'"),
    (BYTES, '"AP8"'),
    (BYTES, "[1]"),
    (DATETIME, '"2024-02-30"'),
    (DATETIME, '"2024-02-29 01:02:03"'),
    (DATE_ONLY, '"2024-02-29T00:00:00"'),
    (TIMESPAN, '"P1DT2S"'),
    (TIMESPAN, '"25:00:00"'),
    (array(INT32), "{}"),
    (array(SINGLE), "[1.0, null]"),
    (dictionary(INT32), "[1]"),
    (dictionary(INT32), '{"a": "1"}'),
    (record("P", name=STRING), "[]"),
    (STRING, '"a" "b"'),
    (array(INT32), "[1,]"),
    (OBJECT, ""),
    (OBJECT, "[" * 65 + "]" * 65),
]
WRITTEN: list[tuple[Any, str]] = [
    (1.0, "1"),
    (-0.0, "-0"),
    (0.1, "0.1"),
    (123.456, "123.456"),
    (1e15, "1E+15"),
    (123456789012345.0, "123456789012345"),
    (1.5e300, "1.5E+300"),
    (0.0001, "0.0001"),
    (0.00001, "1E-05"),
    (5e-324, "5E-324"),
    (2**60, "1152921504606846976"),
    (True, "true"),
    (Decimal("1.10"), "1.10"),
    ("a\"b'c<d>&e+f`g\\h/", '"a\\u0022b\\u0027c\\u003Cd\\u003E\\u0026e\\u002Bf\\u0060g\\\\h/"'),
    ("\t\r\n\x00\x7f", '"\\t\\r\\n\\u0000\\u007F"'),
    ("é☃\U0001f600", '"\\u00E9\\u2603\\uD83D\\uDE00"'),
    (b"\xfb\xff", '"+/8="'),
    (datetime(2024, 2, 29, 1, 2, 3, 500000), '"2024-02-29T01:02:03.5"'),  # noqa: DTZ001
    (datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=2))), '"2024-02-29T00:00:00+02:00"'),
    ([1, [None]], "[1,[null]]"),
]


def name(value: object) -> str | None:
    return value.name if isinstance(value, Type) else None


@pytest.mark.parametrize(("kind", "text", "value"), READ, ids=name)
def test_what_fits_is_read(kind: Type, text: str, value: object) -> None:
    """A text that fits the type becomes the value."""
    assert kind.read(parse(text)) == value


@pytest.mark.parametrize(("kind", "text"), REFUSED, ids=name)
def test_what_does_not_fit_is_refused(kind: Type, text: str) -> None:
    """A text that is no JSON, or that does not fit the type, is an exception."""
    with pytest.raises(JsonError):
        kind.read(parse(text))


def test_bytes_that_are_no_utf8_are_refused() -> None:
    """Text in another encoding is no JSON."""
    with pytest.raises(JsonError):
        parse(b'"\xff"')


def test_an_interface_is_not_read() -> None:
    """Only null can be read into an interface."""
    with pytest.raises(NotSupportedError):
        HANDLE.read(parse("1"))


def test_64_levels_are_read() -> None:
    """The depth of 64 is still allowed."""
    assert OBJECT.read(parse("[" * 64 + "]" * 64)) is not None


def test_an_element_is_read_later() -> None:
    """An element keeps numbers of any size, and the last of several members of one name."""
    element = JSON_ELEMENT.read(parse('{"a": 1, "a": [1267650600228229401496703205376, 1.5, null]}'))
    assert element["a"].natural() == [2**100, 1.5, None]


@pytest.mark.parametrize(("value", "text"), WRITTEN)
def test_values_are_written(value: object, text: str) -> None:
    """A value has the text that System.Text.Json gives it."""
    assert write(value, Options()) == text


def test_a_number_that_json_has_not_is_not_written() -> None:
    """NaN is an exception before anything is sent."""
    with pytest.raises(ArgumentError):
        write([float("nan")], Options())


def test_the_options_of_the_clients() -> None:
    """The policy names properties and leaves null properties out; keys of dictionaries and items stay."""
    request = Properties(HandleId="h", Args=[None], Kwargs={"Key": None}, ReturnType=None)
    assert write(request, Options()) == '{"HandleId":"h","Args":[null],"Kwargs":{"Key":null},"ReturnType":null}'
    camel = Options(camel_case=True, ignore_null=True)
    assert write(request, camel) == '{"handleId":"h","args":[null],"kwargs":{"Key":null}}'


def test_handles_are_written_as_objects() -> None:
    """A handle among the arguments is written with the properties of its class."""
    camel = Options(camel_case=True, ignore_null=True)
    assert write(ObjectHandle("h", "list"), camel) == '{"handleId":"h","typeName":"list","isValid":true}'
    assert write(ObjectHandle("h", "list"), Options()) == '{"HandleId":"h","TypeName":"list","IsValid":true}'
    assert write(ModuleHandle("h", "math"), camel) == '{"handleId":"h","moduleName":"math"}'
