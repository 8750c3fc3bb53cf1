"""Float arrays of the sizes that programs fetch: the old clients have no other way to fetch arrays."""

from __future__ import annotations

import array
import random

import pytest
from compat.clients import Client, ObjectHandle
from compat.dotnet.types import OBJECT, to_single

pytestmark = pytest.mark.about("transport")

COUNT = 900_000
"""As JSON, so many doubles with all their digits are more than 16 MiB."""
MAKE = f"""
import array, random
random.seed(1)
flat = array.array("d", (random.random() for _ in range({COUNT})))
"""


def kept(client: Client, code: str, name: str) -> ObjectHandle:
    """The object behind a name in `__main__`, by a call: only calls give handles."""
    client.evaluate(OBJECT, f"{code}\nNone")
    builtins = client.import_module("builtins")
    assert builtins is not None, client.log
    handle = client.call_method(OBJECT, builtins, "eval", [f"__import__('__main__').{name}"])
    assert isinstance(handle, ObjectHandle), client.log
    return handle


@pytest.fixture(scope="module")
def numbers() -> list[float]:
    source = random.Random(1)  # noqa: S311
    doubles = array.array("d", (source.random() for _ in range(COUNT)))
    return array.array("f", doubles).tolist()


def test_900_000_doubles(client: Client, numbers: list[float]) -> None:
    """A million numbers arrive, each as the nearest float."""
    assert client.to_float_array(kept(client, MAKE, "flat")) == numbers
    assert client.log == []


@pytest.mark.long
@pytest.mark.about("session")
def test_rows_of_900_000_doubles(client: Client, numbers: list[float]) -> None:
    """The same number of them arrives in rows."""
    code = f"{MAKE}\nclass Rows(list): pass\nrows = Rows(flat[at : at + 1000] for at in range(0, {COUNT}, 1000))"
    rows = client.to_float_array_2d(kept(client, code, "rows"))
    assert client.log == []
    assert [number for row in rows for number in row] == numbers
    assert {len(row) for row in rows} == {1000}


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("array.array('f', [0.1, 1e30])", [to_single(0.1), to_single(1e30)]),
        ("array.array('q', [2**53])", [float(2**53)]),
        ("memoryview(b'ab')", [97.0, 98.0]),
        ("range(3)", [0.0, 1.0, 2.0]),
        ("array.array('d', [1e300, -1e300])", [float("inf"), float("-inf")]),
    ],
)
def test_what_becomes_an_array(client: Client, code: str, answer: list[float]) -> None:
    """Buffers and sequences of numbers become arrays."""
    assert client.to_float_array(kept(client, f"import array\nsource = {code}", "source")) == answer
    assert client.log == []


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_an_array_with_a_number_that_json_lacks(client: Client, number: str) -> None:
    """These clients refuse it and log why; the code that makes the array can replace such numbers first."""
    source = kept(client, f"import array\nsource = array.array('d', [1.5, float('{number}')])", "source")
    assert client.to_float_array(source) == []
    assert len(client.log) == 1
    assert "JsonError" in client.log.pop()
    replaced = "replaced = array.array('d', (x if x - x == 0 else -1.0 for x in source))"
    assert client.to_float_array(kept(client, replaced, "replaced")) == [1.5, -1.0]
    assert client.log == []


def test_float_arrays(client: Client) -> None:
    """ToFloatArrayAsync and ToFloatArray2DAsync read numbers as float."""
    assert client.to_float_array(client.create_object_handle_from_result([1, 2.5, 0.1])) == [
        1.0,
        2.5,
        0.10000000149011612,
    ]
    assert client.to_float_array_2d(client.create_object_handle_from_result([[1, 2], [3, 4]])) == [
        [1.0, 2.0],
        [3.0, 4.0],
    ]
    assert client.log == []
