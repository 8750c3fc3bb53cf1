"""Spare forks on a machine that is busy, and when what makes them fails: there are as many again before long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from venvd_worker.warden.progress import Progress

pytestmark = pytest.mark.slow

IN_A_HURRY = """
import sys
archive, options = sys.argv[4], sys.argv[6:]
sys.path.insert(0, archive)
from venvd_worker.warden import command_line
from venvd_worker.warden import fork_pool
fork_pool._CHECK_INTERVAL, fork_pool._FORK_TIMEOUT, fork_pool._SLOW_FORK_TIMEOUT = 0.5, 1.0, 200.0
fork_pool._FIRST_PAUSE, fork_pool._LONGEST_PAUSE = 0.02, 0.1
command_line.run_warden(archive, options)
"""
"""A warden that waits for seconds where others wait for minutes."""
FORKED = """
import os, time
depth = 0
def forked():
    global depth
    depth += 1
    if depth == {depth} and os.path.exists({flag!r}):
        {action}
os.register_at_fork(after_in_child=forked)
"""
MIDDLE, CHILD = 1, 2
COMPUTE = "end = time.process_time() + {:g}\n        while time.process_time() < end: pass"


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """While it is there, forks of `odd` do what they are told to."""
    return tmp_path / "flag"


@pytest.fixture
def preloading(new_host: Callable[..., Any], python: str, tmp_path: Path) -> Callable[..., Any]:
    """Starts a warden in a hurry that preloads `odd`, of this code."""

    def start(code: str, *options: str) -> Any:
        (tmp_path / "odd.py").write_text(code)
        (tmp_path / "hurry.py").write_text(IN_A_HURRY)
        within = (python, "-I", "-S", str(tmp_path / "hurry.py"))
        return new_host("--site", str(tmp_path), "--preload", "odd", *options, within=within)

    return start


@pytest.fixture
def busy() -> Iterator[None]:
    """One processor for all that is started, and others that want it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()
    os.sched_setaffinity(0, before)


def named(host: Any, name: str) -> list[int]:
    """The warden's children that are called `name`."""
    pids = map(int, Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split())
    return [pid for pid in pids if _name(pid) == name]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def full(host: Any, tools: Any) -> None:
    """Wait until the spare forks are there."""
    tools.wait_for(lambda: len(named(host, "venvd-spare")) == 2)


def told(host: Any, state: str) -> dict[str, Any]:
    """The next news of a zygote in that state."""
    if host.hello["zygote"]["state"] == state:
        return dict(host.hello["zygote"])
    return dict(host.event(lambda event: event["event"] == "zygote" and event["data"]["state"] == state))


def ready(host: Any, tools: Any) -> int:
    """The process ID of the zygote, once it and the spare forks are there."""
    full(host, tools)
    (pid,) = tools.wait_for(lambda: named(host, "venvd-zygote"))
    return int(pid)


def used(host: Any) -> None:
    """Start three sessions, one more than there are spare forks."""
    assert [host.start().eval("1 + 1") for _ in range(3)] == [2, 2, 2]


def test_a_fork_that_fails_while_somebody_waits_for_it(preloading: Any, flag: Path, tools: Any) -> None:
    """The session starts by exec, and spare forks are made as soon as they can be."""
    host = preloading(FORKED.format(depth=MIDDLE, flag=str(flag), action="time.sleep(0.5); os._exit(1)"))
    zygote = ready(host, tools)
    flag.touch()
    used(host)
    flag.unlink()
    assert ready(host, tools) == zygote


def test_a_slow_fork_that_gets_on(preloading: Any, flag: Path, tools: Any) -> None:
    """Sessions start by exec meanwhile, and the zygote stays."""
    host = preloading(FORKED.format(depth=CHILD, flag=str(flag), action=COMPUTE.format(2)))
    zygote = ready(host, tools)
    flag.touch()
    used(host)
    flag.unlink()
    assert ready(host, tools) == zygote


def test_a_slow_zygote_that_gets_on(preloading: Any, flag: Path, tools: Any) -> None:
    """One that takes long to fork stays as well."""
    host = preloading(FORKED.format(depth=MIDDLE, flag=str(flag), action=COMPUTE.format(2)))
    zygote = ready(host, tools)
    flag.touch()
    used(host)
    flag.unlink()
    assert ready(host, tools) == zygote


def test_a_fork_that_does_nothing(preloading: Any, flag: Path, tools: Any) -> None:
    """It alone is replaced."""
    host = preloading(FORKED.format(depth=CHILD, flag=str(flag), action="time.sleep(600)"))
    zygote = ready(host, tools)
    flag.touch()
    used(host)
    flag.unlink()
    assert ready(host, tools) == zygote


def test_a_zygote_that_does_nothing(preloading: Any, flag: Path, tools: Any) -> None:
    """It is replaced, and the log tells why."""
    host = preloading(FORKED.format(depth=MIDDLE, flag=str(flag), action="time.sleep(600)"))
    zygote = ready(host, tools)
    flag.touch()
    used(host)
    flag.unlink()
    assert "did not answer" in told(host, "failed")["why"]
    tools.wait_for(lambda: named(host, "venvd-zygote") not in ([], [zygote]))
    full(host, tools)


def test_a_zygote_that_is_stopped_for_a_while(preloading: Any, tools: Any) -> None:
    """It goes on, or is replaced: in both cases the spare forks are there afterwards."""
    host = preloading("")
    zygote = ready(host, tools)
    for seconds in (0.3, 0.8, 1.3):
        os.kill(zygote, signal.SIGSTOP)
        session = host.start()
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(zygote, signal.SIGCONT)
        assert session.eval("1 + 1") == 2
        tools.wait_for(lambda: named(host, "venvd-zygote"))
        zygote = ready(host, tools)


@pytest.mark.long
def test_a_zygote_that_is_killed_again_and_again(preloading: Any, tools: Any) -> None:
    """One that works is made again, however often; in the directory of the first."""
    host = preloading("")
    for _ in range(8):
        zygote = ready(host, tools)
        os.kill(zygote, signal.SIGKILL)
        tools.wait_for(lambda zygote=zygote: named(host, "venvd-zygote") not in ([], [zygote]))
        host.start().eval("1 + 1")
    ready(host, tools)
    directories = 1 + len(host.sessions) + 2  # two forks wait for the next sessions
    tools.wait_for(lambda: len(list(host.work.iterdir())) == directories)


def test_a_zygote_that_never_works(preloading: Any) -> None:
    """After five that crashed no other is tried."""
    host = preloading("import os\nos.abort()\n")
    host.event(lambda event: event["event"] == "zygote" and "until there is another" not in event["data"]["why"])
    assert host.start().eval("1 + 1") == 2


def test_a_zygote_that_cannot_be_heard(preloading: Any, flag: Path, tools: Any) -> None:
    """A zygote that sends an unknown message is replaced."""
    shout = "import os, socket, stat\n"
    shout += f"for name in os.listdir('/proc/self/fd') if os.path.exists({str(flag)!r}) else ():\n"
    shout += "    try: socket.socket(fileno=os.dup(int(name))).send(b'?')\n"
    shout += "    except OSError: pass\n"
    flag.touch()
    host = preloading(shout)
    assert "cannot be heard" in told(host, "failed")["why"]
    flag.unlink()
    ready(host, tools)


def test_an_import_on_a_busy_machine(busy: None, preloading: Any, tools: Any) -> None:
    """The time in which others had the processor does not count against the time for imports."""
    code = "import time\n" + COMPUTE.format(1).replace("        ", "") + "\n"
    host = preloading(code, "--preload-timeout", "2.5")
    ready(host, tools)
    assert told(host, "ready")["why"] == ""


def test_sessions_on_a_busy_machine(busy: None, preloading: Any, tools: Any) -> None:
    """However slow the forks are, the zygote stays and the spare forks come back."""
    host = preloading("")
    os.setpriority(os.PRIO_PROCESS, ready(host, tools), 19)
    zygote = ready(host, tools)
    for _ in range(4):
        used(host)
    assert ready(host, tools) == zygote


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [("while True: pass", None, True), ("import time; time.sleep(600)", None, False),
     ("while True: pass", signal.SIGSTOP, False)],
)  # fmt: skip
def test_progress(code: str, number: int | None, expected: bool) -> None:
    """A process that runs, or would if it could, gets on; one that sleeps or is stopped does not."""
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\n" + code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    if number is not None:
        process.send_signal(number)
    time.sleep(0.5)
    progress = Progress()
    progress.check([process.pid])
    time.sleep(0.5)
    report = progress.check([process.pid])
    process.kill()
    process.communicate()
    assert report is expected
