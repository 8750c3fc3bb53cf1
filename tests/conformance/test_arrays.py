"""Arrays of every permitted type and shape, in and out over every transport, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness.arrays import ARRAY_WAYS, Array, ArrayCaller
from harness.engines import ENGINES, list_ways
from harness.stack import SharedStacks, Stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from venvd_contract.errors import HandleNotFound, InvalidRequest, TooLarge, Unimplemented, VenvdError

pytestmark = pytest.mark.about("transport")

DTYPES = (
    "|b1", "|i1", "|u1", ">i2", "<i4", "<i8", "<u8", "<f2", ">f4", "<f8", "<c8", ">c16", "<M8[ns]", "<M8[D]", "<m8[s]",
    "|S5", "<U7", ">U1",
)  # fmt: skip
SHAPES = ((), (0,), (3,), (2, 3), (0, 4), (2, 1, 3), (1,) * 16, (60_000,), (300, 500))


@pytest.fixture(scope="module", params=ENGINES)
def numeric(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    """An engine with one venv that has numpy."""
    return stacks.stack(request.param, "numpy")


@pytest.fixture(scope="module", params=list_ways(ARRAY_WAYS))
def arrays(stacks: SharedStacks, numeric: Stack, request: pytest.FixtureRequest) -> Iterator[ArrayCaller]:
    kind, made = ARRAY_WAYS[request.param]
    running = stacks.backend(numeric, kind)
    client = made(running.url, running.token)
    client("exec", {"code": "import numpy as np"})
    yield client
    client.close()


def held(call: ArrayCaller, expression: str, **handles: str) -> str:
    """The handle of what an expression gives; `handles` are names of what others stand for."""
    names = {name: {"$handle": handle} for name, handle in handles.items()}
    wrapped = f"[{expression}]"  # a numpy scalar would be plain data
    outer = call("eval", {"expression": f"type('Box', (list,), {{}})({wrapped})", "locals": names})["handleId"]
    code = {"expression": "box[0]", "locals": {"box": {"$handle": outer}}}
    result = call("eval", code)
    assert "handleId" in result, f"{expression} is plain data"
    return str(result["handleId"])


def value(call: ArrayCaller, expression: str, **handles: str) -> Any:
    names = {name: {"$handle": handle} for name, handle in handles.items()}
    return call("eval", {"expression": expression, "locals": names})["value"]


def sample(dtype: str, shape: tuple[int, ...], order: Any) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    return np.asarray((np.arange(count) % 1000).astype(dtype).reshape(shape), order=order)


def same(left: Array, right: Array) -> None:
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_and_go(arrays: ArrayCaller, dtype: str) -> None:
    """An array of each type, shape and order arrives as it was sent, and comes back as it is there."""
    for shape in SHAPES:
        for order in ("C", "F"):
            sent = sample(dtype, shape, order)
            handle = arrays.put(sent)
            there = "[x.dtype.str, list(x.shape), x.flags.f_contiguous, x.flags.writeable]"
            assert value(arrays, there, x=handle) == [sent.dtype.str, list(shape), sent.flags.f_contiguous, True]
            array = arrays.get(handle)
            same(array, sent)
            assert array.flags.f_contiguous == sent.flags.f_contiguous
            arrays("dispose", {"handleId": handle})


@pytest.mark.parametrize(
    ("expression", "dtype", "shape", "total"),
    [
        ("np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1]", "<i8", (2, 2, 4), 184),
        ("np.arange(200000.)[::3]", "<f8", (66667,), 6666633333),
        ("np.arange(6).reshape(2, 3).T", "<i8", (3, 2), 15),
        ("np.broadcast_to(np.float32(2), (3, 4))", "<f4", (3, 4), 24),
        ("np.matrix([[1, 2]])", "<i8", (1, 2), 3),
        ("__import__('array').array('h', [1, 2, 3])", "<i2", (3,), 6),
        ("memoryview(bytearray(b'abc'))", "|u1", (3,), 294),
        ("__import__('collections').deque([1.5, 2])", "<f8", (2,), 3.5),
    ],
)
def test_what_numpy_sees_as_an_array_is_one(
    arrays: ArrayCaller, expression: str, dtype: str, shape: tuple[int, ...], total: float
) -> None:
    """Views in any order of memory, buffers and lists of numbers come as the array that numpy makes of them."""
    array = arrays.get(held(arrays, expression))
    assert (array.dtype.str, array.shape) == (dtype, shape)
    assert array.sum() == total


@pytest.mark.parametrize(
    "expression",
    [
        "np.array([None, 1])",
        "np.zeros(2, dtype='i4,f8')",
        "np.zeros(2, dtype='V3')",
        "np.ma.array([1, 2], mask=[0, 1])",
        "type('Thing', (), {})()",
        "__import__('collections').deque([1, 'a', None])",
    ],
)
def test_what_has_no_fixed_elements_is_refused(arrays: ArrayCaller, expression: str) -> None:
    """Objects, structures and masks are refused with a sentence that says so."""
    with pytest.raises(InvalidRequest, match="cannot travel"):
        arrays.get(held(arrays, expression))
    assert value(arrays, "1 + 1") == 2


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"dtype": "|O"}, InvalidRequest),
        ({"dtype": "|V8"}, InvalidRequest),
        ({"dtype": "f8"}, InvalidRequest),
        ({"shape": [5]}, InvalidRequest),
        ({"shape": [3]}, InvalidRequest),
        ({"shape": [-4]}, InvalidRequest),
        ({"shape": [2**62, 2**62]}, TooLarge),
        ({"shape": [1] * 65}, TooLarge),
        ({"order": "K"}, InvalidRequest),
    ],
)
def test_a_description_that_lies_is_refused(
    arrays: ArrayCaller, wrong: dict[str, Any], error: type[VenvdError]
) -> None:
    """Type, shape, order and length are held against each other, and the connection goes on."""
    before = len(arrays("handles", {})["handles"])
    with pytest.raises(error):
        arrays.put(np.arange(4.0), **wrong)
    assert len(arrays("handles", {})["handles"]) == before
    same(arrays.get(arrays.put(np.arange(4.0))), np.arange(4.0))


def test_a_handle_must_be_there(arrays: ArrayCaller) -> None:
    """An unknown handle is the same error as in other commands."""
    with pytest.raises(HandleNotFound):
        arrays.get("nobody")


@pytest.mark.about("everywhere")
def test_a_large_array_goes_both_ways(arrays: ArrayCaller) -> None:
    """Tens of megabytes, several times, are what they were; what is sent may be changed there."""
    sent = np.random.default_rng(7).random(4_000_000)
    for _ in range(3):
        handle = arrays.put(sent)
        arrays("exec", {"code": "keep = None"})
        value(arrays, "x.__setitem__(0, 0.5)", x=handle)
        array = arrays.get(handle)
        assert array[0] == 0.5
        assert array[1:].tobytes() == sent[1:].tobytes()
        arrays("dispose", {"handleId": handle})


FORKED = """
def changed_by_a_child(array):
    import os
    child = os.fork()
    if child == 0:
        array[:] = -1
        os._exit(0)
    os.waitpid(child, 0)
    return float(array.sum())
"""


def test_an_array_that_was_sent_belongs_to_its_process(arrays: ArrayCaller) -> None:
    """A process that the session forks changes its own copy; and the next array knows nothing of what was changed."""
    arrays("exec", {"code": FORKED})
    for number in range(3):
        handle = arrays.put(np.full(100_000, float(number)))
        assert value(arrays, "changed_by_a_child(x)", x=handle) == 100_000 * number
        value(arrays, "x.fill(9)", x=handle)
        assert arrays.get(handle).sum() == 900_000
        arrays("dispose", {"handleId": handle})


def test_a_fetched_array_is_a_copy(arrays: ArrayCaller) -> None:
    """What is changed in the session after an array was fetched does not change what was fetched, nor the next one."""
    handle = held(arrays, "np.zeros(100_000)")
    first = arrays.get(handle)
    value(arrays, "x.fill(1)", x=handle)
    second = arrays.get(handle)
    assert (first.sum(), second.sum()) == (0, 100_000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        dtype=st.sampled_from(DTYPES),
        shape=hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6),
        fill=st.nothing(),
    ),
    order=st.sampled_from(["C", "F"]),
)
def test_any_array_survives_the_round_trip(arrays: ArrayCaller, array: Array, order: Any) -> None:
    """Random arrays of random types come back bit for bit."""
    array = np.asarray(array, order=order)
    handle = arrays.put(array)
    same(arrays.get(handle), array)
    arrays("dispose", {"handleId": handle})


@pytest.fixture(params=list_ways(ARRAY_WAYS))
def bare(stacks: SharedStacks, stack: Stack, request: pytest.FixtureRequest) -> Iterator[ArrayCaller]:
    """A venv without numpy."""
    kind, made = ARRAY_WAYS[request.param]
    running = stacks.backend(stack, kind)
    client = made(running.url, running.token)
    yield client
    client.close()


def test_without_numpy_the_error_says_so(bare: ArrayCaller) -> None:
    """A venv without numpy says what it lacks; what shows its memory by itself is fetched all the same."""
    with pytest.raises(Unimplemented, match="needs numpy"):
        bare.put(np.arange(3.0))
    with pytest.raises(Unimplemented, match="needs numpy"):
        bare.get(held(bare, "__import__('collections').deque([1, 2])"))
    assert bare.get(held(bare, "__import__('array').array('d', [1, 2])")).tolist() == [1, 2]
