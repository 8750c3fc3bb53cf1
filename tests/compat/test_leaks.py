"""Handles that old clients do not ask for: they would never be disposed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat.clients import Client
from compat.dotnet.types import BOOLEAN, INT32, STRING, array, dictionary, listed, nullable
from harness.callers import CALLERS, Caller
from harness.stack import Running

pytestmark = pytest.mark.about("everywhere")

PLAIN = [INT32, STRING, BOOLEAN, nullable(INT32), listed(INT32), dictionary(STRING), array(INT32)]


@pytest.fixture
def counted(backend: tuple[str, Running]) -> Iterator[Caller]:
    kind, running = backend
    caller: Caller = CALLERS[kind](running.url, None)
    yield caller
    caller.close()


def count(caller: Caller) -> int:
    return len(caller("handles")["handles"])


def test_objects_that_no_type_holds_leave_no_handle(client: Client, counted: Caller) -> None:
    """Where the client asks for a plain type and the result is an object, no handle stays behind."""
    builtins = client.import_module("builtins")
    assert builtins is not None
    client.evaluate(nullable(INT32), "kept = object()\nNone")
    main = client.import_module("__main__")
    assert main is not None
    before = count(counted)
    for kind in PLAIN:
        assert client.evaluate(kind, "object()") == kind.default
        assert client.get_attribute(kind, main, "kept") == kind.default
        assert client.call_method(kind, builtins, "eval", ["object()"]) == kind.default
    assert count(counted) == before
