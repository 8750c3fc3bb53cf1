"""Values as JSON and back."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import types
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest

from venvd_contract.errors import HandleNotFound, InvalidRequest, TooLarge
from venvd_contract.values import MAX_DEPTH, Decoder, Encoder, NotPlain, parse_timedelta

encode = Encoder().encode
tagged = Encoder(tagged=True).encode
decode = Decoder().decode

BOTH: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    (2**53, 2**53),
    (2**53 + 1, {"$int": "9007199254740993"}),
    (-(2**80), {"$int": "-1208925819614629174706176"}),
    (1.5, 1.5),
    (-0.0, -0.0),
    (math.inf, {"$float": "inf"}),
    (-math.inf, {"$float": "-inf"}),
    ("", ""),
    ("\x00\u2028\U0001f600", "\x00\u2028\U0001f600"),
    (b"\x00\xff", {"$bytes": "AP8="}),
    (1 + 2j, {"$complex": [1.0, 2.0]}),
    (complex(math.inf, 0), {"$complex": [{"$float": "inf"}, 0.0]}),
    (decimal.Decimal("1.10"), {"$decimal": "1.10"}),
    (dt.datetime(2024, 2, 29, 1, 2, 3), {"$datetime": "2024-02-29T01:02:03"}),  # noqa: DTZ001
    (dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), {"$datetime": "2024-01-01T00:00:00+00:00"}),
    (dt.date(2024, 2, 29), {"$date": "2024-02-29"}),
    (dt.time(1, 2, 3, 4), {"$time": "01:02:03.000004"}),
    (dt.timedelta(days=1, seconds=2), {"$timedelta": "P1DT2S"}),
    (dt.timedelta(microseconds=-1), {"$timedelta": "P-1DT86399.999999S"}),
    ([1, [2]], [1, [2]]),
    ({"a": {"b": []}}, {"a": {"b": []}}),
    ({1: "x", None: 2}, {"$dict": [[1, "x"], [None, 2]]}),
    ({"$a": 1}, {"$dict": [["$a", 1]]}),
    ({"a": 1, "$b": 2}, {"$dict": [["a", 1], ["$b", 2]]}),
]
SEQUENCES: list[tuple[Any, Any, Any]] = [
    ((1, (2,)), [1, [2]], {"$tuple": [1, {"$tuple": [2]}]}),
    ({3}, [3], {"$set": [3]}),
    (frozenset({3}), [3], {"$frozenset": [3]}),
    ({(1, 2): 3}, {"$dict": [[[1, 2], 3]]}, {"$dict": [[{"$tuple": [1, 2]}, 3]]}),
]


@pytest.mark.parametrize(("value", "data"), BOTH)
def test_each_value_has_its_form(value: Any, data: Any) -> None:
    """Both modes give the form of the contract, which is JSON and comes back as the value."""
    for mode in (encode, tagged):
        assert mode(value) == data
    text = json.dumps(data, allow_nan=False)
    back = decode(json.loads(text))
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_not_a_number() -> None:
    """NaN is tagged, and comes back as one."""
    assert encode(math.nan) == {"$float": "nan"}
    assert math.isnan(decode({"$float": "nan"}))


@pytest.mark.parametrize(("value", "plain", "kept"), SEQUENCES)
def test_modes(value: Any, plain: Any, kept: Any) -> None:
    """Mode `plain` makes arrays of tuples and sets, mode `tagged` keeps them."""
    assert encode(value) == plain
    assert tagged(value) == kept
    assert decode(kept) == value


@pytest.mark.parametrize("value", [OrderedDict(a=1), defaultdict(int, a=1), Counter("a")])
def test_kinds_of_dictionaries(value: Any) -> None:
    """The standard library's dictionaries are objects like any other."""
    assert encode(value) == {"a": 1}


class Whole(int):
    pass


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [object(), [object()], {"a": (object(),)}, Whole(3), Text("x"), range(3), "\ud800", {"\ud800": 1}, print, int],
)
def test_what_is_not_plain(value: Any) -> None:
    """Anything else, subclasses included, has no JSON form, and neither has what holds it."""
    with pytest.raises(NotPlain):
        encode(value)


def test_the_fallback() -> None:
    """What is not plain is asked of the fallback, at any depth."""
    encoder = Encoder(fallback=lambda value: {"$handle": type(value).__name__})
    assert encoder.encode([1, {"a": object()}]) == [1, {"a": {"$handle": "object"}}]


def test_numpy_scalars_without_numpy() -> None:
    """A scalar of numpy's is the number that it holds; an array of no dimensions is none."""
    module = types.ModuleType("numpy")
    members = {"__module__": module.__name__, "shape": (), "dtype": types.SimpleNamespace(kind="i")}
    scalar = type("int64", (), {**members, "__array_interface__": {}, "item": lambda _self: 7})()
    assert encode([scalar]) == [7]
    array = type("ndarray", (), {**members, "__array_interface__": {}, "item": lambda _self: 7})()
    with pytest.raises(NotPlain):
        encode(array)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_depth() -> None:
    """`MAX_DEPTH` levels go both ways, one more does not; a list in itself is too deep."""
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for way in (encode, decode):
        with pytest.raises(TooLarge, match=str(MAX_DEPTH)):
            way(nested(MAX_DEPTH + 1))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TooLarge):
        encode(endless)


@pytest.mark.parametrize("tag", ["$tuple", "$set", "$dict", "$frozenset"])
def test_depth_of_tagged_containers(tag: str) -> None:
    """Tags nested without end are too deep as well, and never the end of the stack."""
    data: Any = 0
    for _ in range(5000):
        data = {tag: [[1, data]]} if tag == "$dict" else {tag: [data]}
    with pytest.raises(TooLarge):
        decode(data)


def test_integers_that_cannot_be_written() -> None:
    """An integer with more digits than Python converts stays behind a handle."""
    with pytest.raises(NotPlain):
        encode(10**5000)


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
