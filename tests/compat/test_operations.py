"""Every method of the old clients' interface, for what it returns and for what it does with an error."""

from __future__ import annotations

import pytest
from compat.clients import Client, ModuleHandle, ObjectHandle
from compat.dotnet.types import BOOLEAN, HANDLE, INT32, JSON_ELEMENT, OBJECT, STRING, listed

pytestmark = pytest.mark.about("everywhere")

NOWHERE = ObjectHandle("no-such-handle", "object")


def made(client: Client, module: str, name: str, *args: object) -> ObjectHandle:
    handle = client.create_object(module, name, list(args) or None)
    assert handle is not None, client.log
    return handle


def test_a_module_is_imported(client: Client) -> None:
    """ImportModuleAsync gives a handle on which functions are called."""
    module = client.import_module("math")
    assert isinstance(module, ModuleHandle)
    assert client.call_method(INT32, module, "gcd", [12, 18]) == 6
    assert client.log == []


def test_an_object_is_created(client: Client) -> None:
    """CreateObjectAsync takes a module's handle or its name, and names the type of the object."""
    module = client.import_module("fractions")
    assert module is not None
    fraction = client.create_object(module, "Fraction", [6, 8], None)
    assert fraction is not None
    assert fraction.type_name == "Fraction"
    assert client.get_attribute(INT32, fraction, "denominator") == 4
    counter = client.create_object("collections", "Counter", None, {"a": 2})
    assert counter is not None
    assert client.call_method(INT32, counter, "total") == 2
    assert client.log == []


def test_a_call_gives_a_handle(client: Client) -> None:
    """CallMethodAsync of an object or of a handle's interface gives a handle where the result is an object."""
    fraction = made(client, "fractions", "Fraction", 1, 3)
    for kind in (OBJECT, HANDLE):
        whole = client.call_method(kind, fraction, "__add__", [1])
        assert isinstance(whole, ObjectHandle)
        assert whole.type_name == "Fraction"
        assert client.get_attribute(INT32, whole, "numerator") == 4
    assert client.log == []


def test_keyword_arguments(client: Client) -> None:
    """Args and kwargs reach the method; names of keywords stay as they are."""
    builtins = client.import_module("builtins")
    assert builtins is not None
    ordered = client.call_method(listed(INT32), builtins, "sorted", [[1, 3, 2]], {"reverse": True})
    assert ordered == [3, 2, 1]
    assert client.call_method(JSON_ELEMENT, builtins, "dict", None, {"CamelKey": 1}).natural() == {"CamelKey": 1}


def test_a_call_without_a_result(client: Client) -> None:
    """A void call has its effect."""
    queue = made(client, "collections", "deque")
    client.call_void(queue, "append", [1])
    assert client.call_method(INT32, queue, "__len__") == 1
    assert client.log == []


def test_attributes(client: Client) -> None:
    """SetAttributeAsync and GetAttributeAsync store and read."""
    namespace = made(client, "types", "SimpleNamespace")
    client.set_attribute(namespace, "Name", "x")
    assert client.get_attribute(STRING, namespace, "Name") == "x"
    assert client.log == []


def test_an_expression_with_locals(client: Client) -> None:
    """EvaluateAsync sees the locals, and names of dictionaries stay as they are."""
    assert client.evaluate(INT32, "a + B['Cd']", {"a": 1, "B": {"Cd": 2}}) == 3
    assert client.log == []


def test_modules_that_are_there(client: Client) -> None:
    """IsModuleAvailableAsync knows what can be imported."""
    assert client.is_module_available("json") is True
    assert client.is_module_available("no_such_module") is False


def test_a_disposed_handle_is_gone(client: Client) -> None:
    """DisposeHandleAsync frees the object, and does it twice without an error."""
    counter = made(client, "collections", "Counter")
    client.dispose_handle(counter)
    client.dispose_handle(counter)
    assert client.log == []
    assert client.call_method(INT32, counter, "total") == 0
    assert len(client.log) == 1


def test_errors_are_logged_and_defaults_returned(client: Client) -> None:
    """Each error becomes one line in the client's log, and the next call works."""
    assert client.evaluate(INT32, "1 / 0") == 0
    assert client.evaluate(STRING, "this is no Python") is None
    assert client.import_module("no_such_module") is None
    assert client.create_object("math", "NoSuchClass") is None
    assert client.call_method(BOOLEAN, NOWHERE, "x") is False
    assert client.get_attribute(OBJECT, NOWHERE, "x") is None
    assert client.to_float_array(NOWHERE) == []
    client.set_attribute(NOWHERE, "x", 1)
    assert len(client.log) == 8
    client.dispose_handle(NOWHERE)
    assert client.evaluate(INT32, "6 * 7") == 42
    assert len(client.log) == 8


def test_connections_are_used_again(client: Client) -> None:
    """Calls one after the other, also such with errors, go over one connection."""
    for expression in ("1", "1 / 0", "'x' * 100_000") * 10:
        client.evaluate(OBJECT, expression)
    assert client.connections == 1
