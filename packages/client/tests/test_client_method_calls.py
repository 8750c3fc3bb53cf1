"""A method call of a proxy is one call to the session, and stands for what Python does with a local object."""

from __future__ import annotations

import operator
import sys
from typing import Any

import pytest

import venvd
from venvd._call_sites import asks_for_class

THING = """
class Thing:
    kind = "thing"

    def method(self, *args, **kwargs):
        return args, kwargs

    def renamed(self):
        kind = type(self)
        kind.other = kind.method
        del kind.method

thing = Thing()
thing.own = lambda *args: ("own", *args)
thing
"""
ANY_NAME = """
class AnyName:
    def __getattr__(self, name):
        return lambda *args: (name, *args)
AnyName()
"""


def commands(server: Any) -> list[str]:
    """Return the commands that the session got since the last look, other than those of the client itself."""
    seen = [command for command, _, _ in server.interpreter.seen if command != "dispose"]
    server.interpreter.seen.clear()
    return seen


def test_a_method_call_is_one_call(server: Any) -> None:
    """Methods, functions of modules, attributes of the instance and of `__getattr__` are called in one trip each."""
    with venvd.connect(server.url, server.token) as backend:
        thing, any_name, math = backend.eval(THING), backend.eval(ANY_NAME), backend.import_module("math")
        commands(server)
        values = [  # outside of `assert`, where pytest keeps each method before the call
            thing.method(),
            thing.method(1, [2], x="y"),
            any_name.whatever(2),
            math.sqrt(4.0),
            *[thing.own(number) for number in range(2)],
        ]
        assert commands(server) == ["call"] * len(values)
        assert values == [((), {}), ((1, [2]), {"x": "y"}), ("whatever", 2), 2.0, ("own", 0), ("own", 1)]


def test_a_method_call_of_a_long_function_is_one_call(server: Any) -> None:
    """The position of the name among the names of the code makes no difference."""
    names = [f"name_{number}" for number in range(700)]
    source = "".join(f"any_name.{name}({number})\n" for number, name in enumerate(names))
    with venvd.connect(server.url, server.token) as backend:
        attributes = {"any_name": backend.eval(ANY_NAME)}
        commands(server)
        exec(compile(source, "long", "exec"), attributes)  # noqa: S102
        assert commands(server) == ["call"] * len(names)


def test_a_lookup_asks_the_session(server: Any) -> None:
    """`getattr`, `hasattr` and a method that is kept see the object as it is at that moment."""
    with venvd.connect(server.url, server.token) as backend:
        thing = backend.eval(THING)
        assert hasattr(thing, "method")
        kept = thing.method
        thing.renamed()
        commands(server)
        assert not hasattr(thing, "method")
        assert getattr(thing, "method", None) is None
        assert operator.attrgetter("other.__name__")(thing) == "method"
        assert commands(server) == ["getattr"] * 4
        with pytest.raises(AttributeError, match="method"):
            thing.method  # noqa: B018
        assert kept(1) == thing.other(1) == ((1,), {})
        assert kept == thing.other
        assert "bound method" in repr(thing.other)


def test_arguments_in_a_star_are_passed(backend: venvd.Backend) -> None:
    """`*args` and `**kwargs` arrive as they were written."""
    thing = backend.eval(THING)
    args, kwargs = [1, 2], {"name": 3, "self": 4}
    assert thing.method(*args) == ((1, 2), {})
    assert backend.eval("dict")(**kwargs) == kwargs
    assert thing.method(0, *args, name=1) == ((0, 1, 2), {"name": 1})


def test_names_of_arguments_are_the_users(backend: venvd.Backend) -> None:
    """Keywords named as parameters of the SDK reach the method."""
    any_keywords = backend.eval("class Any:\n  def method(self, **kwargs): return kwargs\nAny()")
    assert any_keywords.method(name=1, args=2, kwargs=3) == {"name": 1, "args": 2, "kwargs": 3}


def test_a_call_of_what_is_missing_or_no_method_fails(backend: venvd.Backend) -> None:
    """A name that is missing is an AttributeError, data that is called a TypeError."""
    thing = backend.eval(THING)
    with pytest.raises(AttributeError, match="nothing"):
        thing.nothing()
    with pytest.raises(TypeError, match="not callable"):
        thing.kind()
    thing.renamed()
    with pytest.raises(AttributeError, match="method"):
        thing.method()


def test_a_lookup_by_an_extension_is_no_method_call(backend: venvd.Backend) -> None:
    """An attribute that a C function fetches while Python code is at a method call of its own is fetched."""

    class Holder:
        def __init__(self, held: Any) -> None:
            self.held = held

        first = property(operator.attrgetter("held.kind.upper"))

    assert Holder(backend.eval(THING)).first() == "THING"


def test_questions_for_a_class_are_told_from_other_calls() -> None:
    """`isinstance`, `.__class__` and `match` in the program's code ask for a class; a compiled function does not."""
    asked: list[bool] = []

    class Asked:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            asked.append(asks_for_class(sys._getframe(1)))
            return dict

    one = Asked()
    assert isinstance(one, dict)
    assert isinstance(one, (list, dict))
    assert isinstance([one, 3][0], dict | list)
    assert one.__class__ is dict
    match one:
        case dict():
            pass
    assert len(asked) >= 5
    assert all(asked)
    asked.clear()
    question = isinstance
    assert question(one, dict)
    operator.methodcaller("__instancecheck__", one)(dict)
    assert not any(asked)
