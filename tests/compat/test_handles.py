"""Handles of old clients that go back as arguments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat.clients import Client, ObjectHandle
from compat.dotnet.types import INT32, STRING

pytestmark = pytest.mark.about("everywhere")


@pytest.fixture
def held(client: Client) -> Iterator[ObjectHandle]:
    """A list behind a handle, which an old client gets from a wrapped value."""
    handle = client.create_object_handle_from_result([1, 2, 3, 4])
    yield handle
    client.dispose_handle(handle)


def test_handles_in_arguments(client: Client, held: ObjectHandle) -> None:
    """A handle in args, kwargs, locals and values is the object, at any depth."""
    builtins = client.import_module("builtins")
    assert builtins is not None
    assert client.call_method(INT32, builtins, "len", [held]) == 4
    assert client.call_method(INT32, builtins, "eval", ["len(v[0])", {"v": [held]}]) == 4
    assert client.evaluate(INT32, "sum(v)", {"v": held}) == 10
    assert client.evaluate(INT32, "sum(v['a'][0])", {"v": {"a": [held]}}) == 10
    client.call_void(held, "extend", [held])
    assert client.call_method(INT32, held, "__len__") == 8
    namespace = client.create_object("types", "SimpleNamespace", None, {"it": held})
    assert namespace is not None
    client.set_attribute(namespace, "again", held)
    assert client.call_method(STRING, namespace, "__repr__").count("[1, 2, 3, 4, 1, 2, 3, 4]") == 2
    assert client.log == []


def test_a_module_in_arguments(client: Client) -> None:
    """The handle of a module is the module."""
    math = client.import_module("math")
    assert client.evaluate(INT32, "m.gcd(12, 18)", {"m": math}) == 6
    assert client.log == []
