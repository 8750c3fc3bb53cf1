"""Each limit of a session, over each transport: reaching it is an error that names it, and affects no other session."""

from __future__ import annotations

from typing import Any

import pytest
from harness.callers import Caller

from venvd_contract.errors import LimitExceeded, VenvdError

pytestmark = pytest.mark.about("session")

MB = 1 << 20
KEEPS = {
    "memory": ({"memoryBytes": 96 * MB}, "x = bytearray(1 << 30)\nlen(x)", "memoryBytes is 100663296"),
    "memory in pieces": (
        {"memoryBytes": 96 * MB},
        "def f():\n    x = []\n    while True: x.append('y' * 1000 + str(len(x)))\nf()",
        "memoryBytes is 100663296",
    ),
    "processor time": ({"cpuSeconds": 1}, "while True: pass", "cpuSeconds is 1"),
    "open files": ({"openFiles": 64}, "x = [open('/dev/null') for _ in range(1000)]", "openFiles is 64"),
    "file size": ({"fileSizeBytes": 4 * MB}, "open('f', 'wb').write(bytes(8 << 20))", "fileSizeBytes is 4194304"),
    "result": ({"resultBytes": MB}, "'x' * (2 << 20)", "resultBytes"),
    "handles": ({"handles": 3}, "object()", "handles"),
}
"""What is kept: the code that reached the limit got an error, and its session lives on."""


def test_every_limit_is_tested_here() -> None:
    """A new limit needs a test."""
    from venvd_contract.session_requests import Limits

    here = {name for limits, _, _ in KEEPS.values() for name in limits}
    assert set(Limits.__dataclass_fields__) == here | {"processes", "outputBytes", "arrayBytes"}


def created(call: Caller, **limits: int) -> str:
    return str(call("session.create", {"limits": limits})["id"])


@pytest.mark.parametrize("limit", KEEPS)
def test_a_limit_is_named(call: Caller, limit: str) -> None:
    """The error has the code `limit_exceeded` and says which; what the session had before is there."""
    limits, code, named = KEEPS[limit]
    session = created(call, **limits)
    try:
        call("eval", {"expression": "kept = 1"}, session=session)
        with pytest.raises(LimitExceeded, match=named):
            for _ in range(10):
                call("eval", {"expression": code}, session=session, timeout=30)
        if limit != "processor time":
            assert call("eval", {"expression": "kept"}, session=session) == {"value": 1}
        told = call("session.get", {"id": session})["limits"]
        assert {name: told[name] for name in limits} == limits
    finally:
        call("session.delete", {"id": session})


ENDS: dict[str, tuple[dict[str, int], str, str]] = {
    "memory of a tree": (
        {"memoryBytes": 64 * MB},
        (
            "import os, time\nfor _ in range(4):\n    if not os.fork():\n        x = b'x' * (40 << 20)\n"
            "        time.sleep(60)\ntime.sleep(60)"
        ),
        "memory .limit 67108864",
    ),
    "processor time that is not given up": (
        {"cpuSeconds": 1},
        "while True:\n    try:\n        while True: sum(range(1000))\n    except BaseException: pass",
        "processor time",
    ),
    "processes": (
        {"processes": 8},
        "import subprocess, time\nx = [subprocess.Popen(['sleep', '60']) for _ in range(20)]\ntime.sleep(60)",
        "limit of 8",
    ),
}
"""What ends a session, since nothing less would do."""


@pytest.mark.parametrize("limit", ENDS)
def test_a_limit_that_ends_the_session_is_named(call: Caller, limit: str) -> None:
    """The answer says which, and that the state is lost."""
    limits, code, named = ENDS[limit]
    session = created(call, **limits)
    try:
        call("eval", {"expression": "kept = 1"}, session=session)
        with pytest.raises(VenvdError, match=named) as caught:
            call("eval", {"expression": code}, session=session, timeout=40)
        assert caught.value.state_lost is True
        assert call("eval", {"expression": "'kept' in globals()"}, session=session) == {"value": False}
    finally:
        call("session.delete", {"id": session})


def test_output_is_cut(call: Caller) -> None:
    """Too much of it is no error: it is cut, and both the text and `truncated` say so."""
    session = created(call, outputBytes=1000)
    try:
        output: dict[str, Any] = call("exec", {"code": "print('x' * 5000)"}, session=session)
        assert output["error"] is None
        assert output["truncated"] is True
        assert "the limit outputBytes is 1000" in output["stdout"] + output["stderr"]
    finally:
        call("session.delete", {"id": session})
