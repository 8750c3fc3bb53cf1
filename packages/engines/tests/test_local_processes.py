from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from venvd_engines.local import processes
from venvd_worker.common import exit_status, process_tree

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as made:
        yield made
        made.kill()


def identity(process: subprocess.Popen[bytes]) -> processes.Identity:
    process_identity = processes.identify(process.pid)
    assert process_identity is not None
    return process_identity


def test_a_running_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """A process has the identity that was written down at its start, as long as it runs."""
    process_identity = identity(sleeper)
    assert process_identity.alive()
    sleeper.kill()
    sleeper.wait()
    assert not process_identity.alive()


def test_an_unreaped_process_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    """A zombie does not count as running, and `reap` takes it away."""
    process_identity = identity(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not process_identity.alive(), 10)
    assert processes.wait_gone(process_identity, 10)
    sleeper.returncode = -signal.SIGKILL  # reaped already


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_a_process_id_used_again_is_not_the_same_process(
    sleeper: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    """A process of another start or another boot is not taken for the one meant, and gets no signal."""
    other = replace(identity(sleeper), **change)  # type: ignore[arg-type]
    assert not other.alive()
    assert not processes.send(other, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_signal_reaches_its_process(sleeper: subprocess.Popen[bytes]) -> None:
    """A signal to the right identity is delivered; to a process that is gone it is not."""
    process_identity = identity(sleeper)
    assert processes.send(process_identity, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM
    assert not processes.send(process_identity, signal.SIGTERM)


def test_names_with_parentheses_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The name of a program may look like the rest of its line."""
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) R 1 (', 0, 0, 0); print(flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE) as made:
        before = identity(made)
        assert made.stdout is not None
        made.stdout.readline()
        assert before.alive()
        made.kill()


TREE = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        time.sleep(300)
print("made", flush=True)
time.sleep(300)
"""
SUBREAPER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
from venvd_worker.common import process_tree
"""
ORPHANS = (
    SUBREAPER
    + """
import time
if os.fork() == 0:
    os.setsid()
    for _ in range(5):
        if os.fork() == 0:
            os.setsid(); time.sleep(300); os._exit(0)
    os._exit(0)
os.wait()
assert len(process_tree.list_below(os.getpid())) == 5
process_tree.kill_below(os.getpid())
for _ in range(5):
    os.wait()
print("clean")
"""
)
BOMB = (
    SUBREAPER
    + """
import time
if os.fork() == 0:
    end = time.monotonic() + 20
    while time.monotonic() < end and len(os.listdir("/proc")) < 1500:
        if os.fork() == 0 and os.fork() == 0:
            pass
        time.sleep(0.05)
    os._exit(0)
time.sleep(0.4)
process_tree.kill_below(os.getpid())
end = time.monotonic() + 20
while process_tree.list_below(os.getpid()) and time.monotonic() < end:
    time.sleep(0.05)
print(len(process_tree.list_below(os.getpid())))
"""
)


def test_a_whole_tree_is_ended() -> None:
    """Children that left their session and ignore signals end with the tree."""
    with subprocess.Popen([sys.executable, "-I", "-c", TREE], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        root.stdout.readline()
        assert processes.wait_until(lambda: len(process_tree.list_below(root.pid)) == 6, 10)
        below = [processes.identify(pid) for pid in process_tree.list_below(root.pid)]
        os.kill(root.pid, signal.SIGSTOP)
        process_tree.kill_below(root.pid)
        assert processes.wait_until(lambda: not any(each and each.alive() for each in below), 10)
        assert identity(root).alive()
        root.kill()


@pytest.mark.parametrize(("code", "answer"), [(ORPHANS, "clean"), (BOMB, "0")])
@pytest.mark.slow
def test_a_subreaper_finds_everything(code: str, answer: str) -> None:
    """What left its parent, and what forks while it is being ended, is found below a child subreaper."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == answer, result.stderr


@pytest.mark.slow
def test_what_is_spared_stays() -> None:
    """A branch that is spared stays with everything below it."""
    with subprocess.Popen([sys.executable, "-I", "-c", TREE], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        root.stdout.readline()
        assert processes.wait_until(lambda: len(process_tree.list_below(root.pid)) == 6, 10)
        branch = process_tree.list_below(root.pid)[0]
        process_tree.kill_below(root.pid, spare=lambda pid: pid == branch)
        assert processes.wait_until(lambda: len(process_tree.list_below(root.pid)) == 2, 10)
        assert len(process_tree.list_below(branch)) == 1
        os.kill(root.pid, signal.SIGSTOP)
        process_tree.kill_below(root.pid)
        root.kill()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "exited with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9 (SIGKILL)"),
        ("import os; os.kill(os.getpid(), 40)", "was killed by signal 40 (a real-time signal)"),
    ],
)
def test_ends_are_told_in_words(code: str, words: str) -> None:
    """How a process ended is a sentence."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert exit_status.describe_exit(status) == words
