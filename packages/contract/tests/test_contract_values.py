"""Values as JSON and back."""

from __future__ import annotations

import datetime as dt
import decimal
import http
import json
import math
import re
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from harness.values import ROWS, Row, evaluate

from venvd_contract.durations import parse_timedelta
from venvd_contract.errors import HandleNotFound, InvalidRequest, TooLarge
from venvd_contract.framing import dump
from venvd_contract.values import MAX_DEPTH, Decoder, NotPlain, PlainEncoder, TaggedEncoder

plain = PlainEncoder().encode
tagged = TaggedEncoder().encode
decode = Decoder().decode


def write(encode: Callable[[Any], Any], value: Any) -> str | None:
    """The JSON of a value, in the spelling of docs/values.md; None where it has none."""
    try:
        text = dump(encode(value))
    except NotPlain:
        return None
    strings = re.compile(r'("(?:[^"\\\\]|\\\\.)*")')
    parts = strings.split(text)
    return "".join(
        part if index % 2 else part.replace(",", ", ").replace(":", ": ") for index, part in enumerate(parts)
    )


@pytest.mark.parametrize("row", [row for row in ROWS if row.package != "pandas"], ids=lambda row: row.expression)
def test_each_row_of_the_table(row: Row) -> None:
    """Every value of docs/values.md has the JSON of the table, and its tagged form comes back as the value."""
    value = evaluate(row)
    assert (write(plain, value), write(tagged, value)) == (row.plain, row.tagged)
    if row.tagged is not None and row.package is None:
        back = decode(json.loads(row.tagged))
        assert repr(back) == repr(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (-0.0, "-0.0"),
        ("\x00\u2028\U0001f600", '"\\u0000\u2028\U0001f600"'),
        (bytearray(b"a"), '"YQ=="'),
        ([-(10**700), {"a": (decimal.Decimal("1E+400"), 'x"')}], f'[-1{"0" * 700}, {{"a": [1E+400, "x\\""]}}]'),
        (decimal.Decimal("-0"), "-0"),
        (decimal.Decimal("sNaN"), "null"),
        ({10**700: 1}, f'{{"1{"0" * 700}": 1}}'),
        (dt.timedelta(0), '"PT0S"'),
        (dt.timedelta(microseconds=-1), '"-PT0.000001S"'),
        ({"a": math.nan, "b": [(math.inf,)]}, '{"a": null, "b": [[null]]}'),
        (http.HTTPMethod.GET if hasattr(http, "HTTPMethod") else "GET", '"GET"'),
        ({http.HTTPStatus.OK: 1}, '{"200": 1}'),
        (OrderedDict([(1, {})]), '{"1": {}}'),
        (defaultdict(int, a=1), '{"a": 1}'),
        (Counter("a"), '{"a": 1}'),
    ],
)
def test_plain_values(value: Any, data: str) -> None:
    """Mode `plain` writes JSON that every reader takes, however large or deep."""
    assert write(plain, value) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (complex(math.inf, 0), {"$complex": [{"$float": "inf"}, 0.0]}),
        (dt.timedelta(microseconds=-1), {"$timedelta": "-PT0.000001S"}),
        ({(1, 2): 3}, {"$dict": [[{"$tuple": [1, 2]}, 3]]}),
        ({"a": 1, "$b": 2}, {"$dict": [["a", 1], ["$b", 2]]}),
        (OrderedDict(a=1), {"a": 1}),
    ],
)
def test_tagged_values(value: Any, data: Any) -> None:
    """Mode `tagged` keeps what JSON lacks, and it comes back as it was."""
    assert tagged(value) == data
    assert decode(data) == value


@pytest.mark.parametrize("value", [math.nan, float("nan")])
def test_not_a_number(value: float) -> None:
    """NaN is tagged, and comes back as one."""
    assert math.isnan(decode(tagged(value)))


class Whole(int):
    pass


class Text(str):
    __slots__ = ()


class Keyed(dict[Any, Any]):
    pass


@pytest.mark.parametrize(
    "value",
    [
        object(),
        [object()],
        {"a": (object(),)},
        range(3),
        deque([1]),
        "\ud800",
        {"\ud800": 1},
        print,
        int,
        pytest.param(Mock(spec=int), id="mock"),
    ],
)
def test_what_has_no_form(value: Any) -> None:
    """Anything else has no JSON form in either mode, and neither has what holds it."""
    assert (write(plain, value), write(tagged, value)) == (None, None)


@pytest.mark.parametrize(("value", "data"), [(Whole(3), "3"), (Text("x"), '"x"'), (Keyed(a=Whole(1)), '{"a": 1}')])
def test_subclasses(value: Any, data: str) -> None:
    """Mode `plain` writes a subclass as its base, and mode `tagged` has no form for it."""
    assert (write(plain, value), write(tagged, value)) == (data, None)


def test_integers_without_end() -> None:
    """Mode `plain` writes 100,000 digits, and mode `tagged` as many as Python; longer ones stay behind a handle."""
    assert write(plain, 10**5000) == "1" + "0" * 5000
    assert write(plain, 10**100_000) is None
    assert write(tagged, 10**5000) is None


def test_the_fallback() -> None:
    """What has no form is asked of the fallback, at any depth."""
    for kind in (PlainEncoder, TaggedEncoder):
        encoder = kind(fallback=lambda value: {"$handle": type(value).__name__})
        assert encoder.encode([1, {"a": object()}]) == [1, {"a": {"$handle": "object"}}]


def test_numpy_scalars_without_numpy() -> None:
    """A scalar of numpy's is the number that it holds; an array of no dimensions is none."""
    module = types.ModuleType("numpy")
    members = {"__module__": module.__name__, "shape": (), "dtype": types.SimpleNamespace(kind="i")}
    scalar = type("int64", (), {**members, "__array_interface__": {}, "item": lambda _self: 7})()
    assert (write(plain, [scalar]), write(tagged, [scalar])) == ("[7]", "[7]")
    array = type("ndarray", (), {**members, "__array_interface__": {}, "item": lambda _self: 7})()
    assert (write(plain, array), write(tagged, array)) == (None, None)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_depth() -> None:
    """`MAX_DEPTH` levels go both ways, one more does not; a list in itself is too deep."""
    assert decode(plain(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for way in (plain, tagged, decode):
        with pytest.raises(TooLarge, match=str(MAX_DEPTH)):
            way(nested(MAX_DEPTH + 1))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TooLarge):
        plain(endless)
    own = Keyed()
    own["a"] = own
    with pytest.raises(TooLarge):
        plain(own)


@pytest.mark.parametrize("tag", ["$tuple", "$set", "$dict", "$frozenset"])
def test_depth_of_tagged_containers(tag: str) -> None:
    """Tags nested without end are too deep as well, and never the end of the stack."""
    data: Any = 0
    for _ in range(5000):
        data = {tag: [[1, data]]} if tag == "$dict" else {tag: [data]}
    with pytest.raises(TooLarge):
        decode(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"$nope": 1}, r"\$nope"),
        ({"$float": "1"}, "nan"),
        ({"$float": 1}, "nan"),
        ({"$int": 5}, "string"),
        ({"$int": "x"}, r"\$int"),
        ({"$int": "9" * 10_000}, r"\$int"),
        ({"$bytes": "?"}, r"\$bytes"),
        ({"$bytes": "é"}, r"\$bytes"),
        ({"$bytes": 1}, "string"),
        ({"$complex": [1]}, r"\$complex"),
        ({"$complex": ["1", 2]}, "number"),
        ({"$complex": "12"}, "array"),
        ({"$decimal": "x"}, r"\$decimal"),
        ({"$datetime": "yesterday"}, r"\$datetime"),
        ({"$date": 3}, "string"),
        ({"$time": "25:00"}, r"\$time"),
        ({"$timedelta": "1 day"}, "duration"),
        ({"$timedelta": "P" + "9" * 30 + "D"}, r"\$timedelta"),
        ({"$tuple": 1}, "array"),
        ({"$set": [[1]]}, r"\$set"),
        ({"$dict": [[1]]}, r"\$dict"),
        ({"$dict": 3}, r"\$dict"),
        ({"$dict": [[[1], 2]]}, r"\$dict"),
        ({"$handle": 3}, "string"),
        ({"$handle": "x"}, "no meaning"),
    ],
)
def test_bad_tags(data: Any, says: str) -> None:
    """An unknown tag, or one with a bad value, is refused and named."""
    with pytest.raises(InvalidRequest, match=says):
        decode([data])


def test_tags_stand_alone() -> None:
    """A key with `$` beside others is a key; only a single one is a tag."""
    assert decode({"$float": "nan", "b": 1}) == {"$float": "nan", "b": 1}


def test_handles_are_resolved() -> None:
    """`$handle` becomes what the resolver gives, and its error comes through."""
    target = object()

    def resolve(name: str) -> Any:
        if name != "known":
            raise HandleNotFound(name)
        return target

    decoder = Decoder(resolve)
    assert decoder.decode({"a": [{"$handle": "known"}]}) == {"a": [target]}
    with pytest.raises(HandleNotFound, match="lost"):
        decoder.decode([{"$handle": "lost"}])


def test_handles_without_a_tag() -> None:
    """Where a decoder knows another form of a handle, objects of that form are resolved, and others stay."""
    target = object()
    decoder = Decoder({"known": target}.__getitem__, lambda data: data.get("ref"))
    assert decoder.decode([{"a": {"ref": "known", "x": 1}}]) == [{"a": target}]
    assert decoder.decode([{"a": {"x": 1, "y": [2]}}]) == [{"a": {"x": 1, "y": [2]}}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("P1D", dt.timedelta(days=1)),
        ("-P1D", dt.timedelta(days=-1)),
        ("PT1H2M3.5S", dt.timedelta(hours=1, minutes=2, seconds=3.5)),
        ("P-1DT86399.999999S", dt.timedelta(microseconds=-1)),
    ],
)
def test_durations(text: str, value: dt.timedelta) -> None:
    """Durations in days, hours, minutes and seconds are read, signs included."""
    assert parse_timedelta(text) == value


@pytest.mark.parametrize("text", ["", "P", "1D", "P1Y", "PT", "P1DT", "PTxS", "P1D2"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is no duration."""
    with pytest.raises(ValueError, match=r"duration|float"):
        parse_timedelta(text)


@pytest.mark.parametrize(("text", "hours"), [("2024-01-01T00:00:00Z", 0), ("2024-01-01T00:00:00+02:00", 2)])
def test_zones(text: str, hours: int) -> None:
    """A time with a zone keeps it; Z is UTC."""
    assert decode({"$datetime": text}).utcoffset() == dt.timedelta(hours=hours)
