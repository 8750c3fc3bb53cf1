"""What code can do to its own session: the answer names it, the server stays healthy, other sessions notice nothing.

Each fault also ends with a session that serves again, afresh or with its state, as the answer said.
"""

from __future__ import annotations

import pytest
from harness.callers import Caller
from harness.waiting import wait_until

from venvd_contract.errors import DeadlineExceeded, SessionLost, UserError, VenvdError

pytestmark = pytest.mark.about("session")

ENDS = {
    "segfault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "os._exit": ("import os; os._exit(7)", "status 7"),
    "abort": ("import os; os.abort()", "SIGABRT"),
    "killed by itself": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "stack of C": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass R:\n    def __repr__(self): return repr(self)\nrepr(R())",
        "",
    ),
    "closes its descriptors": ("import os; os.closerange(3, 20000)", "descriptors"),
    "closes all descriptors": ("import os; os.closerange(0, 20000)", "descriptors"),
    "becomes another program": ("import os; os.execv('/bin/true', ['true'])", "status 0"),
}
CALLS = ("eval", "exec")


@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize("fault", [name for name in ENDS if name != "stack of C"])
def test_what_ends_a_session(call: Caller, victim: str, command: str, fault: str) -> None:
    """The call is told how it ended and that the state is lost; the next call finds a fresh session."""
    code, how = ENDS[fault]
    with pytest.raises(SessionLost, match=how) as caught:
        call(command, {"code" if command == "exec" else "expression": code}, session=victim)
    assert caught.value.state_lost is True
    assert call("eval", {"expression": "'kept' in globals()"}, session=victim) == {"value": False}


def test_recursion_without_end(call: Caller, victim: str) -> None:
    """It is an error of the code, or the end of its session, and told as one of the two."""
    with pytest.raises(VenvdError) as caught:
        call("eval", {"expression": ENDS["stack of C"][0]}, session=victim, timeout=30)
    assert caught.value.code in {"user_error", "session_lost", "limit_exceeded"}
    assert call("eval", {"expression": "1"}, session=victim) == {"value": 1}


LOOPS = {
    "holds the GIL": "while True: pass",
    "sleeps": "import time\nwhile True: time.sleep(1)",
    "in another thread": "import threading\nt = threading.Event()\nt.wait()",
    "in a lock": "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_loops_that_can_be_interrupted(call: Caller, victim: str, loop: str) -> None:
    """The deadline ends the call and not the session."""
    with pytest.raises(DeadlineExceeded) as caught:
        call("eval", {"expression": LOOPS[loop]}, session=victim, timeout=0.5)
    assert caught.value.state_lost is False
    assert call("eval", {"expression": "kept"}, session=victim) == {"value": 1}


STUBBORN = {
    "a sum in C": "sum(range(10**15))",
    "ignores SIGINT": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "swallows": "import time\nwhile True:\n    try:\n        while True: time.sleep(1)\n    except BaseException: pass",
    "children that do": "import os, signal\nos.fork()\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
}


@pytest.mark.parametrize("loop", STUBBORN)
def test_loops_that_cannot(call: Caller, victim: str, loop: str) -> None:
    """After the grace the session is killed, and the answer says that its state is lost."""
    with pytest.raises(DeadlineExceeded, match=r"did not stop|killed") as caught:
        call("eval", {"expression": STUBBORN[loop]}, session=victim, timeout=0.5)
    assert caught.value.state_lost is True
    assert call("eval", {"expression": "'kept' in globals()"}, session=victim) == {"value": False}


NOW_AND_THEN = {
    "a regular expression": "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
    "a power": "x = pow(3, 10**9)",
}


@pytest.mark.parametrize("loop", NOW_AND_THEN)
def test_loops_that_look_for_signals_now_and_then(call: Caller, victim: str, loop: str) -> None:
    """The call is interrupted, or its session killed, and the answer says which."""
    with pytest.raises(DeadlineExceeded) as caught:
        call("eval", {"expression": NOW_AND_THEN[loop]}, session=victim, timeout=0.5)
    kept = not caught.value.state_lost
    assert call("eval", {"expression": "'kept' in globals()"}, session=victim) == {"value": kept}


# ---- bombs and floods ------------------------------------------------------------------------------------------

FORK_BOMB = """
import os, time
for _ in range(9):
    try: os.fork()
    except OSError: time.sleep(0.01)
time.sleep(30)
"""
"""Hundreds of processes, and no more: without containers they share the machine with all other tests."""


def test_a_fork_bomb(call: Caller) -> None:
    """It is killed with its whole tree, and the answer names the limit."""
    made = call("session.create", {"limits": {"processes": 16}})["id"]
    try:
        with pytest.raises(VenvdError, match="limit of 16"):
            call("eval", {"expression": FORK_BOMB}, session=made, timeout=40)
        assert call("eval", {"expression": "1"}, session=made) == {"value": 1}
    finally:
        call("session.delete", {"id": made})


FLOODS = {
    "print": "while n < 64: n += print('x' * (1 << 20)) is None",
    "a descriptor": "while n < 64: n += os.write(1, b'x' * (1 << 20)) > 0",
    "a child": "subprocess.run('yes | head -c 64000000', shell=True)",
    "both streams": "while n < 64: n += print('x' * (1 << 20), file=(sys.stdout, sys.stderr)[n % 2]) is None",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_an_output_flood(call: Caller, victim: str, flood: str) -> None:
    """The output is cut and says so, `truncated` is true, and the state is kept."""
    code = "import os, subprocess, sys\nn = 0\n" + FLOODS[flood]
    output = call("exec", {"code": code}, session=victim)
    assert output["error"] is None
    assert output["truncated"] is True
    assert "outputBytes" in output["stdout"] + output["stderr"]
    assert len(output["stdout"]) + len(output["stderr"]) < 5 << 20
    assert call("eval", {"expression": "kept"}, session=victim) == {"value": 1}


def test_a_file_flood(call: Caller, victim: str) -> None:
    """Thousands of files, some of them deeply nested, go with their session and delay no other session."""
    code = """
import os
for n in range(5000): open(f"file{n}", "w").close()
for n in range(300):
    os.mkdir("deep"); os.chdir("deep")
    open("file", "w").close()
1
"""
    made = call("session.create", {})["id"]
    where = "import os; os.path.dirname(os.getcwd())"
    root = call("eval", {"expression": where}, session=made)["value"]
    assert call("eval", {"expression": code}, session=made) == {"value": 1}
    call("session.delete", {"id": made})
    exists = f"import os; os.path.exists({root!r})"
    wait_until(lambda: call("eval", {"expression": exists}, session=victim) == {"value": False}, "files are left")


# ---- patching --------------------------------------------------------------------------------------------------

PATCHES = """
import builtins, json, os, select, signal, socket, struct, sys, threading, time
def broken(*_args, **_kwargs): raise RuntimeError("patched")
class Broken:
    def __getattr__(self, _name): raise RuntimeError("patched")
json.encoder.JSONEncoder.encode = json.decoder.JSONDecoder.decode = broken
for module in (json, os, select, signal, socket, struct, threading, time):
    for name in [name for name in vars(module) if not name.startswith("__")]:
        setattr(module, name, broken)
sys.stdout = sys.stderr = sys.stdin = Broken()
sys.modules["json"] = sys.modules["os"] = None
sys.excepthook = sys.displayhook = broken
for name in ("len", "isinstance", "type", "print", "repr", "str", "dict", "list", "open", "Exception", "__import__"):
    setattr(builtins, name, broken)
"""


def test_patched_builtins_and_modules(call: Caller, victim: str) -> None:
    """Code that breaks built-ins, json, os, sockets and streams breaks its own code only: calls are answered."""
    assert call("exec", {"code": PATCHES}, session=victim)["error"] is None
    assert call("eval", {"expression": "kept + 1"}, session=victim) == {"value": 2}
    assert call("eval", {"expression": "[kept, {'a': 'b'}]"}, session=victim) == {"value": [1, {"a": "b"}]}
    with pytest.raises(UserError) as caught:
        call("eval", {"expression": "len([])"}, session=victim)
    assert caught.value.error_type == "RuntimeError"
    with pytest.raises(DeadlineExceeded):
        call("eval", {"expression": "while True: pass"}, session=victim, timeout=0.5)
    call("session.reset", {"id": victim})
    assert call("eval", {"expression": "len([])"}, session=victim) == {"value": 0}
