"""The rules of sessions, over every transport and engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from harness.callers import Caller

from venvd_contract.errors import Cancelled, Conflict, HandleNotFound, InvalidRequest, NotFound, SessionLost

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


def test_default_is_always_there(call: Caller) -> None:
    """The session `default` exists without being made."""
    assert "default" in {item["id"] for item in call("session.list")["sessions"]}


def test_a_session_is_told(call: Caller, session: str) -> None:
    """`session.get` tells state, limits and counters."""
    call("eval", {"expression": "object()"}, session=session)
    info = call("session.get", {"id": session})
    assert info["state"] == "idle"
    assert info["calls"] >= 1
    assert info["handles"] == 1
    assert info["limits"]["handles"] > 0


def test_a_session_can_be_named(call: Caller) -> None:
    """A name is its ID; taking it twice is a conflict."""
    made = call("session.create", {"name": "lab"})
    try:
        assert call("eval", {"expression": "1"}, session="lab") == {"value": 1}
        assert made["name"] == "lab"
        with pytest.raises(Conflict, match="lab"):
            call("session.create", {"name": "lab"})
    finally:
        call("session.delete", {"id": made["id"]})


def test_a_bad_name_is_refused(call: Caller) -> None:
    """A name that is no DNS label is refused."""
    with pytest.raises(InvalidRequest):
        call("session.create", {"name": "No Label"})


def test_sessions_share_no_names(call: Caller, session: str) -> None:
    """What one session defines, another does not see."""
    call("eval", {"expression": "secret = 1"}, session=session)
    assert call("eval", {"expression": "'secret' in globals()"}) == {"value": False}


def test_sessions_share_no_handles(call: Caller, session: str) -> None:
    """A handle is bound to its session."""
    held = call("wrap", {"value": 1}, session=session)["handleId"]
    with pytest.raises(HandleNotFound):
        call("getattr", {"handleId": held, "attributeName": "real"})


def test_sessions_are_processes_with_directories(call: Caller, session: str) -> None:
    """Each session has its own process and its own working directory."""
    code = "import os; [os.getpid(), os.getcwd()]"
    mine, other = (call("eval", {"expression": code}, session=name)["value"] for name in (session, "default"))
    assert mine[0] != other[0] or mine[0] == 1  # each is the first process of a namespace of its own
    assert mine[1] != other[1]


def test_the_environment_of_a_session(call: Caller) -> None:
    """`env` is what user code finds, and nothing of the server's is there."""
    made = call("session.create", {"env": {"GREETING": "hi"}})
    try:
        environment = call("eval", {"expression": "import os; dict(os.environ)"}, session=made["id"])["value"]
        assert environment["GREETING"] == "hi"
        assert not [name for name in environment if name.startswith("VENVD_")]
    finally:
        call("session.delete", {"id": made["id"]})


def test_a_deleted_session_is_gone(call: Caller) -> None:
    """After `session.delete` its ID is not found."""
    made = call("session.create", {})
    call("session.delete", {"id": made["id"]})
    with pytest.raises(NotFound):
        call("eval", {"expression": "1"}, session=made["id"])
    with pytest.raises(NotFound):
        call("session.delete", {"id": made["id"]})


def test_reset_starts_afresh(call: Caller, session: str) -> None:
    """`session.reset` keeps the ID and loses the state."""
    call("eval", {"expression": "before = 1"}, session=session)
    assert call("session.reset", {"id": session})["id"] == session
    assert call("eval", {"expression": "'before' in globals()"}, session=session) == {"value": False}


@pytest.mark.about("everywhere")
def test_interrupt_ends_the_call_only(call: Caller, session: str) -> None:
    """`session.interrupt` answers the running call with `cancelled` and leaves the state."""
    call("eval", {"expression": "before = 1"}, session=session)
    caught: list[BaseException] = []

    def run() -> None:
        other = call.fresh()
        try:
            other("eval", {"expression": "import time\nwhile True: time.sleep(0.01)"}, session=session)
        except Cancelled as error:
            caught.append(error)
        other.close()

    thread = threading.Thread(target=run)
    thread.start()
    while call("session.get", {"id": session})["state"] != "busy":
        pass
    call("session.interrupt", {"id": session})
    thread.join(60)
    assert len(caught) == 1
    assert call("eval", {"expression": "before"}, session=session) == {"value": 1}


def test_a_busy_session_leaves_the_others_alone(call: Caller, session: str) -> None:
    """While one session runs, ping, another session and the session's own state answer."""
    other = call.fresh()
    code = "import time\nt = time.monotonic()\nwhile time.monotonic() - t < 1: pass\n'done'"
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(other("eval", {"expression": code}, session=session)))
    thread.start()
    while call("session.get", {"id": session})["state"] != "busy":
        pass
    assert call("ping") == {"status": "ok"}
    assert call("eval", {"expression": "1"}) == {"value": 1}
    thread.join(60)
    other.close()
    assert answers == [{"value": "done"}]


def test_memory_over_the_limit_is_told(call: Caller) -> None:
    """A session that needs more memory than its limit fails by itself, and the limit is named."""
    from venvd_contract.errors import LimitExceeded

    made = call("session.create", {"limits": {"memoryBytes": 64 * 1024 * 1024}})
    try:
        with pytest.raises((LimitExceeded, SessionLost), match="memory"):
            call("eval", {"expression": "x = bytearray(512 * 1024 * 1024)\nlen(x)"}, session=made["id"])
        assert call("eval", {"expression": "1"}) == {"value": 1}
    finally:
        call("session.delete", {"id": made["id"]})


def test_unknown_limits_are_refused(call: Caller) -> None:
    """A limit that does not exist, or is negative, is named."""
    for limits, named in (({"memory": 1}, "memory"), ({"handles": -1}, "handles")):
        with pytest.raises(InvalidRequest, match=named):
            call("session.create", {"limits": limits})
