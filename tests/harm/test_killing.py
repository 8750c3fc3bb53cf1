"""Code that kills what it can see: on a backend of its own, since its other sessions may go as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from harness.callers import CALLERS, Caller
from harness.stack import Running, Stack
from harness.waiting import wait_until

from venvd_contract.errors import SessionLost, UserError, VenvdError

pytestmark = pytest.mark.about("session")

PRELOAD = ("decimal", "json")

KILLS_SIBLINGS = """
import os, signal
parent = os.getppid()
def children():
    return [int(pid) for task in os.listdir(f"/proc/{parent}/task")
            for pid in open(f"/proc/{parent}/task/{task}/children").read().split()]
for _ in range(3):
    for pid in children():
        try:
            if pid != os.getpid(): os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it was just reaped, or is none of this session's
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=list(CALLERS))
def own(stack: Stack, request: pytest.FixtureRequest) -> Iterator[tuple[Running, Caller]]:
    running = stack.start(request.param, preload=PRELOAD)
    made = CALLERS[request.param](running.url, running.token)
    yield running, made
    made.close()
    stack.stop(running)


def forked(call: Caller) -> bool:
    """Whether a new session finds what is preloaded."""
    made = call("session.create", {})["id"]
    imported = call("eval", {"expression": "'decimal' in __import__('sys').modules"}, session=made)["value"]
    call("session.delete", {"id": made})
    return bool(imported)


def test_killing_every_sibling(own: tuple[Running, Caller]) -> None:
    """A session that tries to kill all others, zygote and spares ends alone: the others keep their state."""
    _, call = own
    call("session.create", {"name": "other"})
    call("eval", {"expression": "kept = 1"}, session="other")
    with pytest.raises(SessionLost, match="SIGKILL"):
        call("eval", {"expression": KILLS_SIBLINGS})
    assert call("ping") == {"status": "ok"}
    wait_until(lambda: answers(call, "default"), "the session does not serve again")
    assert call("eval", {"expression": "kept"}, session="other") == {"value": 1}
    assert forked(call)


def answers(call: Caller, session: str) -> bool:
    with contextlib.suppress(VenvdError):
        return bool(call("eval", {"expression": "1"}, session=session) == {"value": 1})
    return False


def test_killing_the_parent(stack: Stack, own: tuple[Running, Caller]) -> None:
    """The kernel refuses a session that tries to kill its parent, and the worker host stays."""
    running, call = own
    with pytest.raises(UserError, match="not permitted"):
        call("eval", {"expression": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"})
    assert call("eval", {"expression": "'alive'"}) == {"value": "alive"}
    assert stack.engine.inspect(running.record).running
