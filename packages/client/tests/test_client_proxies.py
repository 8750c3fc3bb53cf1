"""Proxies feel like the objects that they stand for."""

from __future__ import annotations

import copy
import gc
import math
import operator
import pickle
from typing import Any

import pytest

import venvd


@pytest.mark.slow
def test_plain_results_are_values(backend: venvd.Backend) -> None:
    """Plain data arrives as itself, tuples and sets kept apart."""
    value = backend.eval("{'a': (1, {2}), 'b': [b'x', 2**70, None], 3: 1.5}")
    assert value == {"a": (1, {2}), "b": [b"x", 2**70, None], 3: 1.5}
    assert math.isnan(backend.eval("float('nan')"))


def test_modules_and_calls(backend: venvd.Backend) -> None:
    """An imported module's functions are called as if it were here."""
    fractions = backend.import_module("fractions")
    half = fractions.Fraction(1, 2)
    assert half.numerator == 1
    assert half.limit_denominator(max_denominator=10) == half
    assert str(half) == "1/2"
    assert repr(half) == "Fraction(1, 2)"
    assert f"{backend.wrap(2):>3}" == "  2"


def test_arithmetic_follows_pythons_protocol(backend: venvd.Backend) -> None:
    """Operators work with the proxy on either side, and reflected."""
    half = backend.import_module("fractions").Fraction(1, 2)
    assert half + 1 == backend.eval("__import__('fractions').Fraction(3, 2)")
    assert 2 * half == 1
    assert 1 - half == half
    assert -half < half <= half * 1
    assert half**2 == half / 2
    assert abs(-half) == half
    assert float(half) == 0.5
    assert int(half * 4) == 2
    assert divmod(half * 5, 1)[0] == 2
    assert divmod(half * 5, 1)[1] == half
    assert hash(half) == hash(0.5)


def test_classes_are_objects_too(backend: venvd.Backend) -> None:
    """Operators on a class are the class's own, not its instances'."""
    kinds = backend.eval("import enum\nenum.Enum('Kind', 'a b')")
    assert len(kinds) == 2
    assert kinds["a"].value == 1
    assert "Kind" in str(kinds)


def test_containers(backend: venvd.Backend) -> None:
    """Length, indexing, slices, assignment, deletion and membership reach the object."""
    numbers = backend.wrap(list(range(10)))
    assert len(numbers) == 10
    assert numbers[3] == 3
    assert numbers[-1] == 9
    assert numbers[2:5] == [2, 3, 4]
    assert numbers[::3] == [0, 3, 6, 9]
    numbers[0] = "first"
    numbers[1:3] = [7]
    assert numbers[:2] == ["first", 7]
    del numbers[0]
    del numbers[1:]
    assert numbers[:] == [7]
    assert 7 in numbers
    assert 8 not in numbers


def test_indexing_with_tuples_and_ellipsis(backend: venvd.Backend) -> None:
    """Slices inside a tuple and `...` arrive as they were written."""
    echo = backend.eval("class Echo:\n  def __getitem__(self, index): return repr(index)\nEcho()")
    assert echo[1, 2:3, ...] == "(1, slice(2, 3, None), Ellipsis)"
    assert echo[1,] == "(1,)"
    assert echo[()] == "()"
    assert echo[:, None] == "(slice(None, None, None), None)"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 1000])
def test_iteration_yields_every_item_once(backend: venvd.Backend, size: int) -> None:
    """However many items there are, each comes once and in order."""
    assert list(backend.wrap(list(range(size)))) == list(range(size))


def test_iteration_over_objects(backend: venvd.Backend) -> None:
    """Items that are no plain data come as proxies, beside those that are."""
    mixed = backend.eval("items = [1, object, 'x', __import__('math')]\n(item for item in items)")
    items = list(mixed)
    assert items[0] == 1
    assert items[2] == "x"
    assert items[3].sqrt(4.0) == 2.0


def test_iterators_are_not_read_ahead(backend: venvd.Backend) -> None:
    """A loop that ends early leaves the rest of an iterator."""
    iterator = backend.eval("iter(range(10))")
    for item in iterator:
        if item == 3:
            break
    assert next(iterator) == 4
    assert list(iterator) == [5, 6, 7, 8, 9]
    with pytest.raises(StopIteration):
        next(iterator)


def test_what_cannot_be_iterated_over_says_so_at_once(backend: venvd.Backend) -> None:
    """`iter()` raises the remote TypeError, not the first `next()`."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(backend.eval("object()"))


def test_in_place_operators(backend: venvd.Backend) -> None:
    """A mutable object stays the same object, an immutable one is replaced."""
    numbers = alias = backend.wrap([1])
    numbers += [2]
    assert numbers is alias
    assert alias[:] == [1, 2]
    half = backend.import_module("fractions").Fraction(1, 2)
    half += 1
    assert str(half) == "3/2"


def test_attributes_are_set_and_deleted(backend: venvd.Backend) -> None:
    """Assignment goes to the object, and `del` too."""
    thing = backend.eval("class Thing: pass\nThing()")
    thing.x = 3
    assert thing.x == 3
    assert "x" in dir(thing)
    del thing.x
    assert not hasattr(thing, "x")
    with pytest.raises(AttributeError):
        thing.x  # noqa: B018


def test_truth(backend: venvd.Backend) -> None:
    """An empty list behind a handle is false."""
    assert not backend.wrap([])
    assert backend.wrap([0])


def test_conversions(backend: venvd.Backend) -> None:
    """The builtin conversions give values of here."""
    assert operator.index(backend.wrap(7)) == 7
    assert bytes(backend.wrap(b"ab")) == b"ab"
    assert complex(backend.wrap(2)) == 2 + 0j
    assert list(range(backend.wrap(3))) == [0, 1, 2]
    assert list(reversed(backend.wrap([1, 2]))) == [2, 1]


def test_copies_live_in_the_session(backend: venvd.Backend) -> None:
    """Copying a proxy copies its object; a plain copy comes as a value."""
    thing = backend.eval("class Box: pass\nbox = Box()\nbox.inside = [1]\nbox")
    twin, deep = copy.copy(thing), copy.deepcopy(thing)
    assert backend.eval("_a.inside is _b.inside", _a=thing, _b=twin) is True
    assert backend.eval("_a.inside is _b.inside", _a=thing, _b=deep) is False


def test_a_proxy_is_not_pickled(backend: venvd.Backend) -> None:
    """Pickling says why not."""
    with pytest.raises(TypeError, match="session"):
        pickle.dumps(backend.wrap([]))


def test_context_managers(backend: venvd.Backend) -> None:
    """`with` enters and leaves the object; an exception is told with its builtin type and may be swallowed."""
    manager = backend.eval(
        "class Manager:\n"
        "  def __enter__(self): self.seen = 'in'; return self\n"
        "  def __exit__(self, kind, error, tb): self.seen = f'{kind and kind.__name__} {error}'; return bool(kind)\n"
        "Manager()"
    )
    with manager as entered:
        assert entered.seen == "in"
    assert manager.seen == "None None"
    with manager:
        raise LookupError("gone")
    assert manager.seen == "LookupError gone"


def test_handles_as_arguments(backend: venvd.Backend) -> None:
    """A proxy stands for its object at any depth of arguments and names."""
    numbers = backend.wrap([3, 1, 2])
    assert backend.eval("sorted(given['x'][0])", given={"x": [numbers]}) == [1, 2, 3]
    math_module = backend.import_module("math")
    assert math_module.fsum(numbers) == 6.0


def test_floats_and_rows(backend: venvd.Backend) -> None:
    """Sequences become lists of floats."""
    assert backend.floats(backend.wrap([1, 2.5])) == [1.0, 2.5]
    assert backend.rows(backend.wrap([[1, 2], [3, 4]])) == [[1.0, 2.0], [3.0, 4.0]]


def test_dead_proxies_release_their_handles(server: Any, eventually: Any) -> None:
    """Handles are disposed of in the background, many in one call."""
    with venvd.connect(server.url, server.token) as backend:
        held = [backend.wrap([number]) for number in range(300)]
        kept = backend.wrap("kept")
        assert len(server.interpreter.objects) == 301
        del held
        gc.collect()
        eventually(lambda: len(server.interpreter.objects) == 1)
        assert server.interpreter.disposals < 100
        assert str(kept) == "kept"


def test_closing_releases_living_proxies(server: Any) -> None:
    """A client that closes lets go of everything it held."""
    backend = venvd.connect(server.url, server.token)
    kept = [backend.wrap(number) for number in range(5)]
    backend.close()
    assert not server.interpreter.objects
    assert "does not answer" in repr(kept[0])


def test_a_handle_of_another_session_is_refused(backend: venvd.Backend) -> None:
    """It is told before anything is sent."""
    with backend.sessions.create("side") as session:
        other = session.wrap([1])
        with pytest.raises(venvd.InvalidRequest, match="another session"):
            backend.eval("_x", _x=other)


def test_what_has_no_json_form_is_refused(backend: venvd.Backend) -> None:
    """A value that cannot be sent is named by type, with what can."""
    with pytest.raises(venvd.InvalidRequest, match="a generator cannot be sent"):
        backend.wrap(one for one in [1])
    with pytest.raises(venvd.InvalidRequest):
        backend.eval("'\ud800'")
