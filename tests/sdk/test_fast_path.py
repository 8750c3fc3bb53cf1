"""The number of Python functions that one eval enters when a session answers it directly."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from harness.stack import SharedStacks

import venvd

MOST_IN_CLIENT = 9
MOST_IN_BOTH = 27
COUNT_IN_SESSION = """
import sys

entered = []

def count(frame, event, argument):
    if event == "call" and frame.f_code.co_name != "<module>":  # that is the evaluated code itself
        entered.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)

sys.setprofile(count)
"""


def test_an_attached_eval_enters_few_functions(stacks: SharedStacks) -> None:
    """Client and session together enter at most 27 Python functions, of which the client enters at most 9."""
    running = stacks.backend(stacks.stack("local"), "pipe")
    entered: list[str] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_qualname)

    with venvd.connect(running.url, running.token) as backend, backend.sessions.create() as session:
        for _ in range(3):  # the first call goes through the server
            session.eval("1 + 1")
        session.exec(COUNT_IN_SESSION)
        before, after = session.eval("len(entered)"), session.eval("len(entered)")
        in_session = session.eval(f"entered[{before}:{after}]")
        session.exec("sys.setprofile(None)")
        sys.setprofile(count)
        try:
            session.eval("1 + 1")
        finally:
            sys.setprofile(None)
    assert len(entered) <= MOST_IN_CLIENT, entered
    assert in_session
    assert len(entered) + len(in_session) <= MOST_IN_BOTH, (entered, in_session)
