"""What Python asks of a local object by itself: its class, whether it is callable, its documentation."""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import inspect
import pydoc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.stack import Running, SharedStacks

import venvd


@pytest.fixture(scope="module")
def running(stacks: SharedStacks) -> Running:
    return stacks.backend(stacks.stack("local", "pyarrow", "pandas", "polars"), "pipe")


@pytest.fixture(scope="module")
def b(running: Running) -> Iterator[venvd.Session]:
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        session.exec(
            "import collections, pandas, numpy, pyarrow\n"
            "class Bag(dict):\n"
            "    'Holds things.'\n"
            "    def add(self, thing: str, count: int = 1, *, where=dict) -> bool:\n"
            "        'Add a thing.'\n"
        )
        yield session


def test_isinstance_is_true_for_classes_of_both_sides(b: venvd.Session) -> None:
    """A class that this program has imported counts, a base of a class that it lacks too, and no other."""
    queue = b.eval("collections.deque([1])")
    assert isinstance(queue, collections.deque)
    assert not isinstance(queue, dict)
    assert isinstance(queue, collections.abc.MutableSequence)
    assert isinstance(b.eval("Bag()"), dict)
    assert isinstance(b.eval("pyarrow.table({})"), pa.Table | pa.Array)
    assert isinstance(b.eval("numpy.eye(2)"), (list, np.ndarray))
    assert isinstance(queue, venvd.RemoteObject)
    assert queue.__class__ is collections.deque
    assert b.eval("Bag").__class__ is venvd.RemoteCallable
    match queue:
        case collections.deque():
            pass
        case _:
            pytest.fail("a match statement does not see the class")


def test_a_proxy_of_a_class_takes_the_place_of_a_class(b: venvd.Session) -> None:
    """`isinstance` and `issubclass` ask the session where the class is a proxy; what is no class is a TypeError."""
    bag, deque = b.eval("Bag"), b.eval("collections.deque")
    assert isinstance(b.eval("Bag()"), bag)
    assert not isinstance(b.eval("Bag()"), deque)
    assert isinstance(b.eval("Bag()"), (deque, bag))
    assert not isinstance(5, bag)
    assert isinstance(5, b.eval("int", proxy=True))
    assert issubclass(bag, b.eval("dict", proxy=True))
    assert not issubclass(bag, deque)
    with pytest.raises(TypeError, match="must be a type"):
        isinstance(5, b.eval("Bag()"))


def test_libraries_see_a_proxy(b: venvd.Session) -> None:
    """Code that would reach into the memory of its own objects gets the data through its protocols instead."""
    array = b.eval("numpy.arange(3.0)")
    assert isinstance(array, np.ndarray)
    assert pa.array(array).to_pylist() == [0.0, 1.0, 2.0]
    frame = b.eval("pyarrow.table({'a': [1, 2], 'b': ['x', 'y']})")
    assert isinstance(frame, pa.Table)
    assert pa.table(frame).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_the_word_for_classes_that_the_program_lacks(b: venvd.Session) -> None:
    """`isinstance` of a session takes classes and dotted names."""
    frame = b.eval("pandas.DataFrame()")
    assert b.isinstance(frame, "pandas.DataFrame")
    assert b.isinstance(frame, (dict, "pandas.DataFrame"))
    assert not b.isinstance(frame, "pandas.Series")
    assert b.isinstance(b.eval("Bag"), type)
    with pytest.raises(ModuleNotFoundError):
        b.isinstance(frame, "absent.Class")


def test_only_what_can_be_called_is_callable(b: venvd.Session) -> None:
    """The proxy of a function, a class or a method is callable, that of a list or a module is not."""
    for code, wanted in {"len": True, "Bag": True, "[].append": True, "[print]": False, "collections": False}.items():
        proxy = b.eval(code, proxy=True)
        assert callable(proxy) is wanted, code
    with pytest.raises(TypeError, match="not callable"):
        b.eval("[1]", proxy=True)()


def test_documentation_is_that_of_the_object(b: venvd.Session) -> None:
    """`__doc__` and `help` show the object's text, and the class of proxies keeps its own."""
    assert b.eval("Bag").__doc__ == "Holds things."
    assert "Holds things." in pydoc.render_doc(b.eval("Bag"))
    assert "Add a thing." in pydoc.render_doc(b.eval("Bag().add"))
    assert (venvd.RemoteObject.__doc__ or "").startswith("A proxy of an object")
    assert (venvd.RemoteCallable.__doc__ or "").startswith("A proxy of a function")


def test_signatures_are_those_of_the_object(b: venvd.Session) -> None:
    """`inspect.signature` shows parameters, defaults and annotations; what has none raises as it does locally."""
    signature = inspect.signature(b.eval("Bag.add"))
    assert str(signature) == "(self, thing: str, count: int = 1, *, where=<class 'dict'>) -> bool"
    assert signature.parameters["count"].default == 1
    assert str(b.signature(b.eval("Bag.add"))) == str(signature)
    with pytest.raises(TypeError, match="callable"):
        inspect.signature(b.eval("Bag()", proxy=True))
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(b.eval("dict"))


def test_a_proxy_from_a_handle(b: venvd.Session) -> None:
    """Another program makes a proxy from an ID; each proxy has a handle of its own, and an unknown one is an error."""
    numbers = b.wrap([1])
    other = b.proxy(venvd.handle_id(numbers))
    other.append(2)
    assert list(numbers) == [1, 2]
    assert venvd.type_name(other) == "list"
    assert venvd.handle_id(other) != venvd.handle_id(numbers)
    with pytest.raises(venvd.HandleNotFound):
        b.proxy("0" * 32)


def test_async_proxies_say_what_to_await(running: Running) -> None:
    """`callable` needs no answer, `__doc__` is awaited, and what cannot be awaited names its word."""

    async def work() -> Any:
        async with venvd.connect_async(running.url, token=running.token) as backend:
            function = await backend.eval("__import__('textwrap').dedent")
            assert callable(function)
            assert not callable(await backend.wrap([]))
            assert (await function.__doc__).startswith("Remove any common")
            assert str(await backend.signature(function)) == "(text)"
            assert await backend.isinstance(await backend.wrap({}), dict)
            assert await (await backend.proxy(venvd.handle_id(function)))("  a") == "a"
            with pytest.raises(TypeError, match=r"await b\.signature"):
                inspect.signature(function)

    asyncio.run(work())
