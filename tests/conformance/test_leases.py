"""Leases of handles, over every transport and engine: what a client that went away held goes, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.callers import Caller
from harness.waiting import wait_until

from venvd_contract.errors import HandleNotFound, InvalidRequest

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


def held(call: Caller, session: str) -> dict[str, Any]:
    return {each["handleId"]: each.get("leaseSeconds") for each in call("handles", session=session)["handles"]}


def until_freed(call: Caller, session: str, handle: str) -> None:
    end = time.monotonic() + 120
    while handle in held(call, session):
        assert time.monotonic() < end, "the lease never ends"
        time.sleep(0.05)


def test_a_lease_ends(call: Caller, session: str) -> None:
    """An unused handle is freed when its lease has ended; one without a lease is not."""
    kept = call("wrap", {"value": 1}, session=session)["handleId"]
    leased = call("wrap", {"value": [2]}, session=session, lease=0.3)["handleId"]
    assert held(call, session)[kept] is None
    until_freed(call, session, leased)
    with pytest.raises(HandleNotFound):
        call("call", {"handleId": leased, "methodName": "pop"}, session=session)
    assert set(held(call, session)) == {kept}


def test_the_object_goes_without_a_request(call: Caller, session: str) -> None:
    """The object itself is gone when its lease has ended, without another call; the session tells how many are left."""
    code = "class Box:\n    def __del__(self): open('gone', 'w').close()\nBox()"
    assert call("eval", {"expression": code}, session=session, lease=0.2)["isHandle"]
    wait_until(lambda: call("file.list", {}, session=session)["files"], "the object is still there")
    wait_until(lambda: call("session.get", {"id": session})["handles"] == 0, "the handle still counts")


def test_use_renews(call: Caller, session: str) -> None:
    """Every use of a handle, by whichever client, begins its lease anew."""
    leased = call("wrap", {"value": [1, 2, 3]}, session=session, lease=60)["handleId"]
    time.sleep(0.2)
    before = held(call, session)[leased]
    assert before < 59.9
    call("eval", {"expression": "len(h)", "locals": {"h": {"$handle": leased}}}, session=session)
    assert held(call, session)[leased] > before


def test_a_call_takes_nothing_off_a_lease(call: Caller, session: str) -> None:
    """While the session is busy no client can use a handle, and so no lease runs."""
    leased = call("wrap", {"value": 5}, session=session, lease=3)["handleId"]
    call("exec", {"code": "import time; time.sleep(4)"}, session=session)
    assert call("getattr", {"handleId": leased, "attributeName": "real"}, session=session) == {"value": 5}


def test_a_call_that_is_left_may_have_a_lease(call: Caller, session: str) -> None:
    """The lease of a call that is left is that of its start."""
    request = {"command": "wrap", "payload": {"value": 1}}
    identity = call("call.start", request, session=session, lease=60)["id"]
    handle = call("call.get", {"id": identity, "wait": 30})["result"]["handleId"]
    assert 0 < held(call, session)[handle] <= 60


@pytest.mark.parametrize("lease", [-1, 1e400])
def test_a_bad_lease(call: Caller, session: str, lease: float) -> None:
    """A lease is a number of seconds, more than 0."""
    with pytest.raises(InvalidRequest):
        call("wrap", {"value": 1}, session=session, lease=lease)


@pytest.mark.about("everywhere")
def test_handles_in_the_form_of_old_clients(call: Caller, session: str) -> None:
    """Handles in args, kwargs, locals and value may have the fields that .NET clients send; not in mode `tagged`."""
    handle = call("wrap", {"value": [7]}, session=session)["handleId"]
    small = {"handleId": handle, "typeName": "list", "isValid": True}
    great = {"HandleId": handle, "TypeName": "list", "IsValid": True}
    same = call("eval", {"expression": "lambda a, *, b: a is b[0]"}, session=session)["handleId"]
    payload = {"handleId": same, "methodName": "__call__", "args": [small], "kwargs": {"b": [great]}}
    assert call("call", payload, session=session) == {"value": True}
    assert call("eval", {"expression": "a is b", "locals": {"a": small, "b": great}}, session=session) == {
        "value": True
    }
    call("setattr", {"handleId": same, "attributeName": "kept", "value": great}, session=session)
    assert call("getattr", {"handleId": same, "attributeName": "kept"}, session=session) == {"value": [7]}
    with pytest.raises(HandleNotFound):
        call("wrap", {"value": {**small, "handleId": "nowhere"}}, session=session)
    for dictionary in (small, great):
        lookup = {"expression": "a", "locals": {"a": dictionary}}
        assert call("eval", lookup, session=session, values="tagged") == {"value": dictionary}
