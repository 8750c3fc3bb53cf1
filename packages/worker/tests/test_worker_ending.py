"""Interrupts, deaths and hostile code: what stays is the warden, what is gone is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import NotFound

FOREVER = "import time\nprint('in')\nwhile True: time.sleep(0.01)"

TRACED = "import ctypes, os; ctypes.CDLL(None).ptrace(0, 0, None, None); os.kill(os.getpid(), 10)"


def lost(session: Any, code: str) -> dict[str, Any]:
    """How a session ended that runs `code`; its stream is closed then."""
    session.send("eval", {"expression": code})
    with pytest.raises((EOFError, ConnectionError)):
        session.reply()
    return dict(session.exited())


# ---- interrupts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "code"), [("timeout", "timeout"), ("cancelled", "cancelled")])
@pytest.mark.parametrize("command", ["eval", "exec"])
@pytest.mark.slow
def test_an_interrupt_leaves_the_state(session: Any, command: str, reason: str, code: str) -> None:
    """An interrupted call is answered by the reason, with its traceback, and names defined before are there."""
    session.eval("before = 5")
    field = "code" if command == "exec" else "expression"
    began = session.files / "began"
    session.send(command, {field: "import os, time\nos.mkdir('began')\nwhile True: time.sleep(0.01)"})
    deadline = time.monotonic() + 20
    while not began.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    session.interrupt(reason)
    reply = session.reply()
    assert reply["code"] == code
    assert "stateLost" not in reply
    assert f'"<{command}-' in reply["traceback"]
    assert session.eval("before") == 5


def test_an_interrupt_reaches_waiting_for_a_child(session: Any) -> None:
    """A call that waits for a child process is interrupted, and the child with it."""
    session.send("exec", {"code": "import subprocess\nprint('in')\nsubprocess.run(['sleep', '60'])"}, stream=True)
    session.shown("in")
    session.interrupt(grace=5)
    assert session.reply()["code"] == "timeout"


@pytest.mark.slow
def test_an_interrupt_reaches_os_system(session: Any, tools: Any) -> None:
    """`os.system` ignores interrupts itself; its command gets one before the grace is over."""
    session.send(
        "exec", {"code": "import os\nos.system('echo in; exec sleep 60')\nimport time\ntime.sleep(60)"}, stream=True
    )
    session.shown("in")
    session.interrupt(grace=4)
    assert session.reply()["code"] == "timeout"
    assert session.eval("1") == 1


@pytest.mark.slow
def test_a_late_interrupt_hits_no_call(session: Any) -> None:
    """An interrupt of a call that is over does not touch the next one."""
    session.eval("1")
    over = session.slot.sequence
    session.send("exec", {"code": "import time\nprint('in')\ntime.sleep(0.5)\n'done'"}, stream=True)
    session.shown("in")
    session.host.request("interrupt", session=session.name, sequence=over, reason="timeout", grace=0.1)
    assert session.reply()["result"]["result"] == {"value": "done"}


def test_code_may_finish_after_an_interrupt(session: Any) -> None:
    """Code that catches the interrupt and returns within the grace is answered with what it returns."""
    code = "import time\ntry:\n    print('in')\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass\n'partial'"
    session.send("exec", {"code": code}, stream=True)
    session.shown("in")
    session.interrupt()
    assert session.reply()["result"]["result"] == {"value": "partial"}


def test_the_handler_is_taken_back(session: Any) -> None:
    """Code that ignores SIGINT for good does so for its own call only."""
    session.eval("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n1")
    session.send("exec", {"code": FOREVER}, stream=True)
    session.shown("in")
    session.interrupt()
    assert session.reply()["code"] == "timeout"


@pytest.mark.parametrize(
    "code",
    [
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{}\nwhile True: pass",
        "import time\nwhile True:\n    try:\n        {}\n        time.sleep(60)\n    except BaseException: pass",
        "while True:\n    try:\n        {}\n        sum(range(10**15))\n    except BaseException: pass",
        (
            "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
            "while True:\n    try:\n        {}\n        time.sleep(60)\n    except BaseException: pass"
        ),
    ],
    ids=["ignores", "swallows", "C loop", "blocks"],
)
def test_code_that_will_not_stop_is_killed(session: Any, tools: Any, code: str) -> None:
    """After the grace the session is killed, and the event says why."""
    session.eval("1")
    began = session.files / "in"
    session.send("exec", {"code": code.format("open('in', 'w').close()")})
    tools.wait_for(began.exists)
    session.interrupt(grace=0.3)
    exit_event = session.exited()
    assert exit_event["reason"] == "interrupt"
    assert "did not stop within 0.3 seconds" in exit_event["how"]
    assert exit_event["signal"] == signal.SIGKILL


# ---- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "how", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV)", "signal"),
        ("import os; os._exit(1)", "exited with status 1", "exit"),
        ("import os; os._exit(0)", "exited with status 0", "exit"),
        ("import os; os.abort()", "was killed by signal 6 (SIGABRT)", "signal"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9 (SIGKILL)", "signal"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "was killed by signal 15 (SIGTERM)", "signal"),
        (TRACED, "was killed by signal 10 (SIGUSR1)", "signal"),
        ("import os; os.closerange(3, 10000)", "closed the descriptors", "exit"),
        ("import os; os.closerange(0, 10000)", "closed the descriptors", "exit"),
        ("import os; os.execv('/bin/true', ['true'])", "exited with status 0", "exit"),
    ],
)
def test_every_end_is_told(session: Any, code: str, how: str, reason: str) -> None:
    """However a session ends, the event says how, and another session starts in its place."""
    exit_event = lost(session, code)
    assert how in exit_event["how"]
    assert (exit_event["reason"], exit_event["session"], exit_event["pid"]) == (reason, session.name, session.pid)
    again = session.host.start(session.name)
    assert again.eval("1 + 1") == 2
    session.host.kill(again)
    again.close()


def test_closing_descriptors_during_exec(session: Any) -> None:
    """An `exec` whose code closes everything ends its session and blocks no other one."""
    session.send("exec", {"code": "import os\nprint(1)\nos.closerange(0, 10000)"})
    with pytest.raises((EOFError, ConnectionError)):
        session.reply()
    assert session.exited()["reason"] == "exit"


@pytest.mark.slow
def test_closing_descriptors_in_a_thread(session: Any) -> None:
    """Descriptors that a thread closes while the session waits end it as well, and block no other one."""
    session.eval(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), os.closerange(3, 10000)), daemon=True).start()"
    )
    assert session.exited()["reason"] == "exit"


DAEMON = """
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        os.write(write, str(os.getpid()).encode())
        os.close(write)
        time.sleep(600)
    os._exit(0)
os.close(write)
os.wait()
int(os.read(read, 20))
"""


@pytest.mark.parametrize("end", ["kill", "exit", "segfault"])
def test_daemons_end_with_their_session(session: Any, tools: Any, end: str) -> None:
    """A process that left session, group and parents behind is gone when the end is told, however it came."""
    daemon = session.eval(DAEMON)
    assert tools.alive(daemon)
    if end == "kill":
        session.host.kill(session)
    elif end == "exit":
        session.send("eval", {"expression": "os._exit(3)"})
    else:
        session.send("eval", {"expression": "import ctypes; ctypes.string_at(0)"})
    session.exited()
    assert not tools.alive(daemon)


def test_daemons_that_refuse_to_be_adopted(session: Any, tools: Any) -> None:
    """Code that stops its session from adopting orphans only hands them to the warden, which ends them."""
    session.eval("import ctypes\nctypes.CDLL(None).prctl(36, 0, 0, 0, 0)")
    daemon = session.eval(DAEMON)
    tools.wait_for(lambda: not tools.alive(daemon))
    assert session.eval("1") == 1


BOMB = """
import os, time
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
    if len(os.listdir('/proc')) > {most}:
        time.sleep(20)
"""


@pytest.mark.slow
def test_a_fork_bomb_is_ended(start: Any) -> None:
    """A bomb over the limit on processes is stopped, killed and told, and nothing of it is left."""
    session = start(processes=20)
    before = {name for name in os.listdir("/proc") if name.isdigit()}
    session.eval("1")
    files = str(session.files)
    session.send("eval", {"expression": BOMB.format(most=len(os.listdir("/proc")) + 150)})
    exit_event = session.exited()
    assert exit_event["reason"] == "processes"
    assert "limit of 20" in exit_event["how"]
    marked = [pid for pid in set(os.listdir("/proc")) - before if pid.isdigit() and _works_in(pid, files)]
    assert marked == []


def _works_in(pid: str, files: str) -> bool:
    try:
        return files in os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False


def test_nothing_is_left_of_a_directory(session: Any, tools: Any) -> None:
    """The session's directory is removed with it, whatever its code made of it."""
    code = (
        "import os\nfor n in range(300):\n    os.mkdir('deep')\n    os.chdir('deep')\n"
        "os.mkdir('/'.join([os.environ['HOME'], 'locked']))\n"
        "open(os.environ['HOME'] + '/locked/file', 'w').close()\nos.chmod(os.environ['HOME'] + '/locked', 0)\n"
        "os.symlink('/etc', os.environ['HOME'] + '/link')"
    )
    session.eval("1")
    root = session.files.parent
    session.eval(code)
    session.host.kill(session)
    tools.wait_for(lambda: not list(root.parent.glob(f"{root.name}*")))
    assert Path("/etc/passwd").exists()


# ---- forks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["eval", "exec"])
def test_a_forked_child_never_answers(session: Any, command: str) -> None:
    """A child that comes back from the user's code ends there: one request, one reply."""
    field = "code" if command == "exec" else "expression"
    code = "import os\npid = os.fork()\nif pid: status = os.waitpid(pid, 0)[1]\npid == 0 or status"
    reply = session(command, {field: code})
    assert (reply["result"] if command == "exec" else reply) == {"value": 0}
    for number in range(20):
        assert session.eval(str(number)) == number


def test_a_forked_child_that_raises(session: Any) -> None:
    """An error in a child is printed like any program's, and its status is 1; an exit is its own."""
    code = "import os\npid = os.fork()\nif not pid: {}\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    output = session("exec", {"code": code.format("raise LookupError('child')")})
    assert output["result"] == {"value": 1}
    assert "LookupError: child" in output["stderr"]
    assert session.eval(code.format("raise SystemExit(7)")) == 7


def test_a_forked_child_prints_into_the_exec(session: Any) -> None:
    """What a forked child prints is caught like its parent's output."""
    code = "import os\npid = os.fork()\nprint('parent' if pid else 'child')\nif pid: os.waitpid(pid, 0)"
    assert sorted(session("exec", {"code": code})["stdout"].split()) == ["child", "parent"]


def test_a_forked_child_holds_nothing_of_ours(session: Any) -> None:
    """A child has neither stream nor control connection, and Python's own handler for SIGINT."""
    code = (
        "import os, signal\nread, write = os.pipe()\npid = os.fork()\nif not pid:\n"
        "    high = [n for n in os.listdir('/proc/self/fd') if int(n) >= 990 and "
        "os.readlink('/proc/self/fd/' + n).startswith('socket')]\n"
        "    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "    os.write(write, repr((high, own)).encode())\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\nos.read(read, 999).decode()"
    )
    assert session.eval(code) == "([], True)"


# ---- the whole -------------------------------------------------------------------------------------------------


def test_kill_answers_when_all_is_gone(session: Any, tools: Any) -> None:
    """`kill` is answered after the event, and the session is not found any more."""
    pid = session.eval("import subprocess\nsubprocess.Popen(['sleep', '600']).pid")
    session.host.request("kill", session=session.name, reason="because")
    assert not tools.alive(pid)
    assert session.exited()["how"] == "was ended: because"
    with pytest.raises(NotFound, match=session.name):
        session.host.request("kill", session=session.name, reason="again")


def _is_in_reserve(process: Path) -> bool:
    """Whether it lives, and is the zygote or a fork of it that waits."""
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and (process / "comm").read_text().strip() in ("venvd-zygote", "venvd-spare")
    except OSError:
        return False


def test_no_zombies(host: Any, start: Any, tools: Any) -> None:
    """The warden has no children but live sessions, its zygote and the forks of it that wait."""
    live = start()
    for _ in range(3):
        lost(start(), "import os; os._exit(0)")
    children = Path(f"/proc/{host.hello['pid']}/task/{host.hello['pid']}/children")

    def others() -> list[str]:
        return [pid for pid in children.read_text().split() if not _is_in_reserve(Path("/proc") / pid)]

    if children.exists():
        tools.wait_for(lambda: others() == [str(live.pid)])
