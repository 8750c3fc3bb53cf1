"""Local objects as values of calls, proxies instead of copies, and async answers that were not awaited."""

from __future__ import annotations

import asyncio
import collections
import datetime as dt
import enum
import math
import operator
import pathlib
import re
import string
import uuid
import zoneinfo
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from harness.stack import Running, SharedStacks

import venvd

OFFSET = 10


@pytest.fixture(scope="module")
def running(stacks: SharedStacks) -> Running:
    return stacks.backend(stacks.stack("local", "numpy"), "pipe")


@pytest.fixture
def real(running: Running) -> Iterator[venvd.Session]:
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        yield session


class Own:
    """A class that only this program has."""


def add_offset(value: int, *, times: int = 1) -> int:
    """Uses a global name and a default."""
    return value * times + OFFSET


@pytest.mark.parametrize(
    "value",
    [
        *(float, dict, sum, math.sqrt, str.upper, collections.OrderedDict, range(2, 9, 3), slice(1, None, 2)),
        *(pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), uuid.UUID(int=7), collections.deque([1, 2], 5)),
        *(Fraction(1, 3), dt.UTC, zoneinfo.ZoneInfo("UTC"), Ellipsis, string),
        *(type(None), enum.IntFlag, uuid.SafeUUID.safe, operator.add),
        *(np.float32, np.sqrt, np.sum, np.dtype("<f4"), np.datetime64("2024-02-29", "ns"), np.timedelta64(3, "D")),
        *("\udc80", ["a\ud800b"], {"key": range(3)}, frozenset({range(2)})),
    ],
    ids=lambda value: re.sub(r" at 0x\w+| from .*", "", ascii(value)),  # the same in each process
)
def test_objects_arrive_as_what_they_are(real: venvd.Session, value: Any) -> None:
    """Classes, functions, modules and instances of importable classes are equal to those of the session."""
    there = real.wrap(value)
    assert real.eval("_ == _1 and type(_) is type(_1)", {"_": there, "_1": value}) is True
    if " at 0x" not in repr(value):
        assert real.eval("repr(_)", _=there) == repr(value)


def test_functions_travel_by_source(real: venvd.Session) -> None:
    """Lambdas and functions of the program take their closure, their defaults and their globals with them."""
    factor = 3
    mapped = real.eval("[*map(function, numbers)]", function=lambda number: number * factor + OFFSET, numbers=[1, 2])
    assert mapped == [13, 16]
    assert real.eval("f(2, times=4)", f=add_offset) == 18
    assert real.eval("[f(5) for f in functions]", functions=[lambda x: x + 1, lambda x: x * 2]) == [6, 10]

    def count_down(number: int, step: int = factor) -> list[int]:
        return [number, *count_down(number - step)] if number > 0 else []

    assert real.eval("f(7)", f=count_down) == [7, 4, 1]


def test_a_named_tuple_needs_a_class_that_the_session_has(real: venvd.Session) -> None:
    """An error says how a class of the program gets into the session."""

    class Point(NamedTuple):
        x: int

    with pytest.raises(venvd.InvalidRequest, match=r"Point is defined in this program: define it .* exec"):
        real.eval("p", p=Point(1))
    with pytest.raises(venvd.InvalidRequest, match=r"this session does not have"):
        real.eval("c", c=Own)
    with pytest.raises(venvd.InvalidRequest, match=r"cannot be sent: .* make it in the session"):
        real.eval("f", f=(one for one in [1]))
    with pytest.raises(venvd.InvalidRequest, match="its source is not known"):
        real.eval("f", f=eval("lambda: 1"))  # noqa: S307 - a function without a source
    assert real.eval("1 + 1") == 2


def test_proxies_in_the_place_of_copies(real: venvd.Session) -> None:
    """`ref` and `proxy=True` reach the session's own object."""
    thing = real.eval("class Thing: pass\nn = Thing(); n.items = [1]; n.cfg = {'a': {'b': [1]}}\nn")
    real.ref(thing, "items").append(2)
    real.ref(thing, "cfg['a']")["b"] = 5
    assert real.eval("n.items, n.cfg") == ([1, 2], {"a": {"b": 5}})
    numbers = real.eval("kept = [3]\nkept", proxy=True)
    numbers.append(4)
    real.getattr(thing, "items", proxy=True).append(6)
    real.call(thing, "__getattribute__", "items", _proxy=True).append(7)
    assert real.eval("kept, n.items") == ([3, 4], [1, 2, 6, 7])
    for place in ("items + [1]", "items.pop()", "", "items; 1"):
        with pytest.raises(venvd.InvalidRequest, match="is no place of an object"):
            real.ref(thing, place)


def test_names_of_parameters_are_free(real: venvd.Session) -> None:
    """Arguments may be called as the SDK calls its own."""
    types = real.import_module("types")
    made = real.create(types, "SimpleNamespace", module=1, name="n", timeout=3, _timeout=30)
    assert (made.module, made.name, made.timeout) == (1, "n", 3)
    namespace = real.eval("def echo(**names): return names\necho")
    assert real.call(namespace, "__call__", target=1, method="m", timeout=2) == {
        "target": 1,
        "method": "m",
        "timeout": 2,
    }
    assert real.eval("code + self", code=1, self=2) == 3
    assert real.eval("timeout + proxy", {"timeout": 1, "proxy": 2}) == 3
    assert real.exec("print(code, check)", {"check": 2}, code=1).stdout == "1 2\n"


def test_rounding_and_powers_keep_their_arguments(real: venvd.Session) -> None:
    """`round(x, n)`, `pow(x, y, z)`, floor, ceil and trunc are the object's own."""
    price = real.eval("__import__('decimal').Decimal('2.675')", proxy=True)
    assert (str(round(price, 2)), round(price)) == ("2.68", 3)
    number = real.eval("10**20 + 7", proxy=True)
    assert pow(number, 3, 1000) == pow(10**20 + 7, 3, 1000)
    third = real.import_module("fractions").Fraction(10**20 * 3 + 1, 3)
    assert (math.floor(third), math.ceil(third), math.trunc(third)) == (10**20, 10**20 + 1, 10**20)


def test_an_iterable_that_fails_yields_what_it_had(real: venvd.Session) -> None:
    """The items before the error come first, plain or not."""
    real.exec("def broken(make):\n  for n in range(10):\n    yield make(n)\n  1 / 0")
    for make in ("int", "lambda n: complex"):
        items: list[Any] = []
        with pytest.raises(ZeroDivisionError):
            for item in real.eval(f"type('Box', (), {{'__iter__': lambda self: broken({make})}})()"):
                items.append(item)  # noqa: PERF402 - the items before the error count
        assert len(items) == 10


def test_the_timeout_can_be_set_later(real: venvd.Session) -> None:
    """Setting `timeout` counts for proxies too, and there is a word for no deadline."""
    sleep = real.import_module("time").sleep
    assert real.timeout is None
    real.timeout = 0.2
    with pytest.raises(venvd.DeadlineExceeded):
        sleep(60)
    real.timeout = venvd.NO_DEADLINE
    sleep(0.01)
    assert real.eval("1", timeout=venvd.NO_DEADLINE) == 1


def test_text_with_lone_surrogates(real: venvd.Session) -> None:
    """Text that no JSON holds is read and compared like any other."""
    text = real.eval("'a\\udc80'")
    assert str(text) == "a\udc80"
    assert f"{text:>3}" == " a\udc80"
    assert text == "a\udc80"
    assert repr(text) == repr("a\udc80")


def test_local_arrays_travel_by_themselves(real: venvd.Session) -> None:
    """Numpy's functions take proxies and local arrays together; memory of the program is changed here."""
    local = np.array([1.0, 4.0])
    there = real.eval("array", array=local)
    assert real.eval("float(a.sum() + b['x'][0].sum())", a=local, b={"x": [local]}) == 10.0
    assert np.asarray(np.sqrt(there)).tolist() == [1.0, 2.0]
    assert np.asarray(local + there).tolist() == [2.0, 8.0]
    assert np.sum(there) == 5.0
    out = np.zeros(2)
    np.add(there, 1, out=out)
    assert out.tolist() == [2.0, 5.0]
    np.copyto(out, there)
    assert out.tolist() == [1.0, 4.0]
    call = real.background.eval("float(a.sum())", a=local)
    assert call.result() == 5.0
    assert real.exec("print(a.sum())", a=local).stdout == "5.0\n"


def test_async_answers_must_be_awaited(running: Running) -> None:
    """What Python would answer by itself is a TypeError that says what to await."""

    async def run() -> None:
        async with venvd.connect_async(running.url, running.token) as backend:
            box = await backend.eval("[1, 2]", proxy=True)
            for ask in (
                bool, len, list, iter, int, float, next, lambda p: 1 in p, lambda p: p.ok and 1, lambda p: p.ok > 5,
                lambda p: p.ok == 1, lambda p: list(p.items), lambda p: bool(p > 5), lambda p: bool(p == [1]),
                lambda p: bool(p.pop()), lambda p: p.__setitem__(0, 1),
            ):  # fmt: skip
                with pytest.raises(TypeError, match="await"):
                    ask(box)
            with pytest.raises(venvd.InvalidRequest, match="await it first"):
                await backend.eval("x", x=box.ok)
            assert await (box == [1, 2]) is True
            assert await asyncio.create_task(box.pop()) == 2
            assert [item async for item in box] == [1]

    asyncio.run(run())
