"""Limits of a session: reaching one is an error that names it, and affects no other session."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, LimitExceeded, UserError

pytestmark = pytest.mark.slow

MB = 1 << 20


@pytest.mark.parametrize("command", ["eval", "exec"])
def test_memory(start: Any, command: str) -> None:
    """An allocation over `memoryBytes` is an error that names the limit, and the state is kept."""
    session = start(memoryBytes=64 * MB)
    session.eval("before = bytearray(16 << 20)\n1")
    field = "code" if command == "exec" else "expression"
    with pytest.raises(LimitExceeded, match="memoryBytes is 67108864") as caught:
        session(command, {field: "x = bytearray(512 << 20)\nlen(x)"})
    assert caught.value.error_type == "MemoryError"
    assert session.eval("len(before)") == 16 * MB


GROW = """
def grow():
    kept = []
    while True:
        kept.append('x' * 1000 + str(len(kept)))
grow()
"""


def test_memory_little_by_little(start: Any) -> None:
    """Memory that runs out in small pieces is answered too, and given back."""
    session = start(memoryBytes=32 * MB)
    for _ in range(2):
        with pytest.raises(LimitExceeded, match="memoryBytes"):
            session("exec", {"code": GROW})
        assert session.eval("1") == 1


def test_memory_error_without_a_limit(session: Any) -> None:
    """Where no limit is set, a MemoryError is the user's."""
    with pytest.raises(UserError) as caught:
        session.eval("raise MemoryError('mine')")
    assert caught.value.error_type == "MemoryError"


def test_memory_of_the_tree(start: Any) -> None:
    """Children that stay below the limit each and exceed it together end the session, which is told as such."""
    session = start(memoryBytes=48 * MB)
    code = (
        "import os, time\nfor _ in range(4):\n    if not os.fork():\n        kept = b'x' * (24 << 20)\n"
        "        time.sleep(30)\ntime.sleep(30)"
    )
    session.send("eval", {"expression": code})
    exit_event = session.exited()
    assert exit_event["reason"] == "memory"
    assert exit_event["how"] == "ran out of memory (limit 50331648 bytes)"


def test_threads_start_under_a_limit(start: Any) -> None:
    """A limit on memory leaves room for threads, and for output to be caught."""
    session = start(memoryBytes=64 * MB)
    code = (
        "import threading\nt = [threading.Thread(target=print, args=(i,)) for i in range(4)]\n"
        "for i in t: i.start()\nfor i in t: i.join()"
    )
    assert sorted(session("exec", {"code": code})["stdout"].split()) == ["0", "1", "2", "3"]


def test_processor_time(start: Any) -> None:
    """Code that uses up `cpuSeconds` is stopped with an error that names it."""
    session = start(cpuSeconds=1)
    with pytest.raises(LimitExceeded, match="cpuSeconds is 1"):
        session.eval("while True: pass")
    assert session.eval("1 + 1") == 2


def test_processor_time_that_is_not_given_up(start: Any) -> None:
    """Code that goes on after its time is up is killed, and the end is told as such."""
    session = start(cpuSeconds=1)
    session.send("eval", {"expression": "while True:\n    try: sum(range(10**6))\n    except BaseException: pass"})
    exit_event = session.exited()
    assert (exit_event["reason"], exit_event["signal"]) == ("cpu", signal.SIGKILL)


def test_open_files(start: Any) -> None:
    """More files than `openFiles` are an error that names it."""
    session = start(openFiles=40)
    session.eval("kept = []")
    for command, field in (("eval", "expression"), ("exec", "code")):
        with pytest.raises(LimitExceeded, match="openFiles is 40"):
            session(command, {field: "while True: kept.append(open('/dev/null'))"})
        session.eval("kept.clear()")


def test_file_size(start: Any) -> None:
    """A file over `fileSizeBytes` is an error that names it."""
    session = start(fileSizeBytes=1000)
    with pytest.raises(LimitExceeded, match="fileSizeBytes is 1000"):
        session.eval("with open('big', 'wb', buffering=0) as f:\n    while True: f.write(b'x' * 600)")
    assert session.eval("import os\nos.path.getsize('big')") == 1000


def test_no_core_files(session: Any) -> None:
    """A session that crashes leaves no core file."""
    assert session.eval("import resource\nresource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]


def test_processes(start: Any) -> None:
    """Processes up to the limit may run."""
    session = start(processes=4)
    code = "import subprocess, time\np = [subprocess.Popen(['sleep', '0.3']) for _ in range(3)]\n[i.wait() for i in p]"
    assert session.eval(code) == [0, 0, 0]


def test_sessions_go_first_when_memory_ends(session: Any) -> None:
    """The kernel is told to end sessions before anything else."""
    assert int(session.eval("open('/proc/self/oom_score_adj').read()")) >= 900


@pytest.mark.parametrize(
    ("limits", "named"),
    [({"memory": 1}, "memoryBytes"), ({"handles": -1}, "handles"), ({"handles": "many"}, "handles")],
)
def test_limits_that_do_not_exist(host: Any, limits: Any, named: str) -> None:
    """A limit that is unknown or no whole number is refused by name."""
    with pytest.raises(InvalidRequest, match=named):
        host.request("start", session="nobody", slot=0, limits=limits)
