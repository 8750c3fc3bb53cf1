"""Calls that are left and fetched later, and calls that are cancelled by name, over every transport and engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from harness.callers import Caller
from harness.filers import filer

from venvd_contract.errors import Cancelled, InvalidRequest, NotFound

pytestmark = pytest.mark.about("transport")

LONG = {"code": "import time\nwhile True:\n    time.sleep(0.01)"}
ENOUGH = 30


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


def started(call: Caller, session: str, command: str, payload: dict[str, Any], **fields: Any) -> str:
    reply = call("call.start", {"command": command, "payload": payload, **fields}, session=session)
    assert reply["state"] in {"queued", "running"}
    return str(reply["id"])


def fetched(call: Caller, identity: str) -> Any:
    return call("call.get", {"id": identity, "wait": ENOUGH})


@pytest.mark.about("everywhere")
def test_a_call_is_left_and_fetched(call: Caller, session: str) -> None:
    """Any client can fetch the result of a background call, any number of times."""
    identity = started(call, session, "eval", {"expression": "6 * 7"})
    other = call.fresh()
    for client in (call, other):
        info = fetched(client, identity)
        assert (info["state"], info["result"]) == ("succeeded", {"value": 42})
        assert (info["command"], info["session"]) == ("eval", session)
        assert info["createdAt"] <= info["startedAt"] <= info["endedAt"]
        assert not info.get("error")
    other.close()


def test_its_client_may_go(call: Caller, session: str) -> None:
    """The call belongs to no connection: it goes on when the client that started it is gone."""
    other = call.fresh()
    identity = started(other, session, "exec", LONG)
    later = started(call, session, "eval", {"expression": "1"})
    other.close()
    assert call("call.get", {"id": later})["state"] == "queued"
    call("cancel", {"id": identity})
    assert fetched(call, identity)["state"] == "cancelled"
    assert fetched(call, later)["result"] == {"value": 1}


def test_output_is_in_the_result(call: Caller, session: str) -> None:
    """What an `exec` that was left wrote is in its result."""
    info = fetched(call, started(call, session, "exec", {"code": "print('hi')\n1 / 0"}))
    assert info["state"] == "succeeded"
    assert info["result"]["stdout"] == "hi\n"
    assert info["result"]["error"]["errorType"] == "ZeroDivisionError"


def test_a_call_that_raised(call: Caller, session: str) -> None:
    """The error of a call that failed has its code, type and traceback."""
    info = fetched(call, started(call, session, "eval", {"expression": "1 / 0"}))
    assert info["state"] == "failed"
    assert (info["error"]["code"], info["error"]["errorType"]) == ("user_error", "ZeroDivisionError")
    assert "1 / 0" in info["error"]["traceback"]
    assert info.get("result") is None


def test_the_session_died(call: Any, session: str) -> None:
    """A call whose session ended meanwhile failed with `session_lost`; so did one that waited behind it."""
    code = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nos._exit(3)"
    dying = started(call, session, "exec", {"code": code})
    behind = started(call, session, "eval", {"expression": "1"})
    files = filer(call, call.running, session)
    files.put("go", b"")
    files.close()
    for identity in (dying, behind):
        info = fetched(call, identity)
        assert (info["state"], info["error"]["code"]) == ("failed", "session_lost")
        assert info["error"]["stateLost"]
    assert "status 3" in fetched(call, dying)["error"]["message"]


def test_a_deadline_of_its_own(call: Caller, session: str) -> None:
    """The timeout of a call that is left is its own, and its state survives it."""
    call("eval", {"expression": "kept = 5"}, session=session)
    info = fetched(call, started(call, session, "exec", LONG, timeout=0.2))
    assert (info["state"], info["error"]["code"]) == ("failed", "timeout")
    assert not info["error"].get("stateLost")
    assert call("eval", {"expression": "kept"}, session=session) == {"value": 5}


def test_cancelling_twice(call: Caller, session: str) -> None:
    """A call that is cancelled stops, its session keeps its state, and to cancel it again is no error."""
    call("eval", {"expression": "kept = 6"}, session=session)
    identity = started(call, session, "exec", LONG)
    call("cancel", {"id": identity})
    assert fetched(call, identity)["state"] == "cancelled"
    assert fetched(call, identity)["error"]["code"] == "cancelled"
    call("cancel", {"id": identity})
    assert call("eval", {"expression": "kept"}, session=session) == {"value": 6}


def test_cancelling_what_waits(call: Caller, session: str) -> None:
    """A call that is cancelled in the queue never begins."""
    first = started(call, session, "exec", LONG)
    second = started(call, session, "eval", {"expression": "begun = True"})
    call("cancel", {"id": second})
    info = fetched(call, second)
    assert info["state"] == "cancelled"
    assert not info.get("startedAt")
    call("cancel", {"id": first})
    assert call("eval", {"expression": "'begun' in globals()"}, session=session) == {"value": False}


def test_waiting_ends_without_a_result(call: Caller, session: str) -> None:
    """Who asks for a call that goes on is told that it runs."""
    identity = started(call, session, "exec", LONG)
    assert call("call.get", {"id": identity, "wait": 0.05})["state"] in {"queued", "running"}
    call("cancel", {"id": identity})
    assert fetched(call, identity)["state"] == "cancelled"


def test_values_as_the_starter_asked(call: Caller, session: str) -> None:
    """The value mode of a call that is left is that of its start."""
    request = {"command": "eval", "payload": {"expression": "(1, 2)"}}
    tagged = call("call.start", request, session=session, values="tagged")["id"]
    assert fetched(call, tagged)["result"] == {"value": {"$tuple": [1, 2]}}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"command": "session.create", "payload": {}}, "session.create"),
        ({"command": "ping"}, "ping"),
        ({"command": "nonsense"}, "nonsense"),
        ({"command": "eval", "payload": {"expression": "1"}, "timeout": -1}, "timeout"),
    ],
)
def test_what_cannot_be_left(call: Caller, payload: dict[str, Any], says: str) -> None:
    """Only what a session answers can be left, with the same checks as when it is waited for."""
    with pytest.raises(InvalidRequest, match=says):
        call("call.start", payload)


def test_unknown_calls(call: Caller) -> None:
    """A call that never was cannot be fetched or cancelled."""
    for command in ("call.get", "cancel"):
        with pytest.raises(NotFound, match="no call"):
            call(command, {"id": "f" * 32})


def test_a_call_in_a_session_that_is_not_there(call: Caller) -> None:
    """A call for no session is refused when it is started."""
    with pytest.raises(NotFound, match="nowhere"):
        call("call.start", {"command": "eval", "payload": {"expression": "1"}}, session="nowhere")


def test_a_named_call_that_is_waited_for(call: Caller, session: str) -> None:
    """`cancel` ends a call by the name that its client gave it, from another connection; its client is told."""
    outcomes: list[object] = []
    other = call.fresh()
    name = f"call in {session}"  # a server remembers the names of calls that have ended

    def wait() -> None:
        try:
            other("exec", {"code": f"begun = True\n{LONG['code']}"}, session=session, name=name)
        except Cancelled as error:
            outcomes.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    end_named(call, name)
    thread.join(ENOUGH)
    assert [type(error) for error in outcomes] == [Cancelled]
    call("cancel", {"id": name})
    assert call("eval", {"expression": "1"}, session=session) == {"value": 1}
    other.close()


def end_named(call: Caller, name: str) -> None:
    """Cancel a call as soon as the server knows of it."""
    pause = threading.Event()
    for _ in range(1000):
        try:
            call("cancel", {"id": name})
        except NotFound:
            pause.wait(0.02)
        else:
            return
    raise AssertionError(f"no call {name} was seen")
