"""How many functions a session enters for one call of a direct client: each costs about a tenth of a microsecond."""

from __future__ import annotations

import json
import socket
from typing import Any

from venvd_contract.internal.control import AttachTerms

MOST_FUNCTIONS = 20
"""Of the 27 that client and session may enter together."""
BEGIN = """
import sys
entered = []
def note(frame, event, _):
    if event == "call":
        entered.append(frame.f_code.co_name)
sys.setprofile(note)
"""


def test_functions_of_one_attached_eval(host: Any, session: Any) -> None:
    """From the wait for a request to the wait for the next one, a small `eval` enters few functions."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        terms = AttachTerms(1, session.name, 60.0, 1 << 20, 1 << 20, cancel=True)
        host.request("attach", session=session.name, terms=terms._asdict(), descriptors=[theirs.fileno()])
        replies = ours.makefile("rb")

        def evaluate(code: str) -> Any:
            line = {"id": 1, "command": "eval", "payload": {"expression": code}}
            ours.sendall(json.dumps(line).encode() + b"\n")
            return json.loads(replies.readline())["result"]["value"]

        assert evaluate("1 + 1") == 2
        evaluate(BEGIN)
        assert evaluate("1 + 1") == 2
        entered = evaluate("sys.setprofile(None); entered")
        replies.close()
    waits = [index for index, name in enumerate(entered) if name == "answer_one"]
    functions = entered[waits[0] : waits[1]]
    assert len(functions) <= MOST_FUNCTIONS, functions
