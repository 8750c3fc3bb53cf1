"""Float arrays of any size, over every transport and engine."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import Any

import pytest
from harness.callers import Caller
from harness.rpc import RpcCaller

from venvd_contract.errors import LimitExceeded

pytestmark = pytest.mark.about("transport")

MANY = 1_000_000
"""Numbers that take more than the 16 MiB of a line."""
INFINITY = float("inf")


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {"limits": {"resultBytes": 1 << 16, "arrayBytes": 32 << 20}})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


def held(call: Caller, session: str, expression: str) -> dict[str, Any]:
    """The handle of what `expression` gives."""
    inside = call("eval", {"expression": f"lambda: [{expression}].pop"}, session=session)
    result = call("call", {"handleId": inside["handleId"], "methodName": "__call__"}, session=session)
    item = call("call", {"handleId": result["handleId"], "methodName": "__call__"}, session=session, values="tagged")
    made = item if item.get("isHandle") else call("wrap", {"value": item["value"]}, session=session)
    return {"handleId": made["handleId"]}


@pytest.mark.about("everywhere")
def test_an_array_may_be_longer_than_a_line(call: Caller, session: str) -> None:
    """The limit of arrays holds for float arrays: neither that of results nor that of lines does."""
    target = held(call, session, f"__import__('array').array('d', (i / 7 for i in range({MANY})))")
    assert call("tofloatarray", target, session=session) == [number / 7 for number in range(MANY)]
    assert call("eval", {"expression": "1"}, session=session) == {"value": 1}


def test_rows_may_be_long(call: Caller, session: str) -> None:
    """The same holds for rows."""
    target = held(call, session, "(lambda: (((i / 7,) * 10 for i in range(10_000))))()")
    assert call("tofloatarray2d", target, session=session) == [[number / 7] * 10 for number in range(10_000)]


def test_an_array_over_its_limit_is_refused(call: Caller) -> None:
    """The error names `arrayBytes`, and the session goes on."""
    made = call("session.create", {"limits": {"arrayBytes": 1 << 20}})["id"]
    target = held(call, made, "[i / 7 for i in range(100_000)]")
    with pytest.raises(LimitExceeded, match="arrayBytes is 1048576"):
        call("tofloatarray", target, session=made)
    assert call("tofloatarray", held(call, made, "(1.5, 2)"), session=made) == [1.5, 2.0]
    call("session.delete", {"id": made})


def test_infinities_and_nan_are_null(call: Caller, session: str) -> None:
    """JSON has neither; messages of gRPC have doubles of every kind."""
    target = held(call, session, "(float('inf'), -float('inf'), float('nan'))")
    high, low, lacking = call("tofloatarray", target, session=session)
    if isinstance(call, RpcCaller):
        assert (high, low) == (INFINITY, -INFINITY)
        assert isnan(lacking)
    else:
        assert (high, low, lacking) == (None, None, None)


def test_a_number_is_an_array_of_one(call: Caller, session: str) -> None:
    """Also where it has no dimensions, as arrays of numpy and tensors can have none."""
    target = held(call, session, "__import__('fractions').Fraction(5, 2)")
    assert call("tofloatarray", target, session=session) == [2.5]
    assert call("tofloatarray2d", target, session=session) == [[2.5]]
