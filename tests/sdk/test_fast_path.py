"""The number of Python functions that a call enters when a session answers it directly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from harness.stack import SharedStacks

import venvd

MOST_IN_CLIENT = 9
MOST_IN_BOTH = 27
MOST_OF_METHOD_CALL = 38
COUNT_IN_SESSION = """
import sys

entered = []

def count(frame, event, argument):
    if event == "call" and frame.f_code.co_name != "<module>":  # that is the evaluated code itself
        entered.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)

sys.setprofile(count)
"""


@pytest.fixture(scope="module")
def session(stacks: SharedStacks) -> Iterator[venvd.Session]:
    """A session that answers the client directly, and does not spin."""
    running = stacks.backend(stacks.stack("local"), "pipe", VENVD_SPIN_MICROSECONDS="0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VENVD_SPIN_MICROSECONDS", "0")
        backend = venvd.connect(running.url, running.token)
    with backend, backend.sessions.create() as session:
        for _ in range(3):  # the first call goes through the server
            session.eval("1 + 1")
        yield session


def count_in_client(call: Callable[[], object]) -> list[str]:
    """Return the functions that the call enters here, without the one that makes the call."""
    entered: list[str] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_qualname)

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered[1:]


def count_in_session(session: venvd.Session, call: Callable[[], object]) -> list[str]:
    """Return the functions that the session enters for the call and for one `eval`."""
    session.exec(COUNT_IN_SESSION)
    before = session.eval("len(entered)")
    call()
    after = session.eval("len(entered)")
    entered: list[str] = session.eval(f"entered[{before}:{after}]")
    session.exec("sys.setprofile(None)")
    return entered


def test_an_attached_eval_enters_few_functions(session: venvd.Session) -> None:
    """Client and session together enter at most 27 Python functions, of which the client enters at most 9."""
    in_client = count_in_client(lambda: session.eval("1 + 1"))
    in_session = count_in_session(session, lambda: None)
    assert len(in_client) <= MOST_IN_CLIENT, in_client
    assert in_session
    assert len(in_client) + len(in_session) <= MOST_IN_BOTH, (in_client, in_session)


def test_an_attached_method_call_enters_few_functions(session: venvd.Session) -> None:
    """A method call of a proxy is one call, and enters at most 38 functions."""
    numbers = session.wrap([1, 2, 1])
    numbers.count(1)
    in_client = count_in_client(lambda: numbers.count(1))
    of_eval = count_in_session(session, lambda: None)
    of_both = count_in_session(session, lambda: numbers.count(1))
    assert in_client.count("DirectCalls.call") == 1, in_client
    in_session = of_both[: len(of_both) - len(of_eval)]
    assert in_session
    assert len(in_client) + len(in_session) <= MOST_OF_METHOD_CALL, (in_client, in_session)
