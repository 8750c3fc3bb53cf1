from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from harness.stack import Quiet

from venvd_contract.errors import Cancelled, DeadlineExceeded, Unavailable
from venvd_engines.local import commands, processes
from venvd_worker.common import process_tree


class CancelOn(Quiet):
    """Cancelled as soon as the log holds that line."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self._line = line

    def check(self) -> None:
        if self._line in self.lines:
            raise Cancelled("it is not wanted")


def run(code: str, progress: Quiet | None = None, timeout: float = 30, **more: Any) -> commands.Outcome:
    return commands.run(
        [sys.executable, "-I", "-S", "-u", "-c", code],
        env={"PATH": os.defpath},
        progress=progress or Quiet(),
        timeout=timeout,
        cwd=Path("/"),
        **more,
    )


def test_output_status_and_log() -> None:
    """A command's stdout is kept, its stderr kept and logged, and its status told."""
    progress = Quiet()
    result = run("import sys; print('out'); print('a\\n\\nb', file=sys.stderr); sys.exit(3)", progress)
    assert (result.status, result.stdout, result.stderr) == (3, "out", "a\n\nb")
    assert progress.lines == ["a", "b"]


def test_the_log_is_live() -> None:
    """A line is logged when it is written, not when the command ends."""
    seen = threading.Event()

    class Watching(Quiet):
        def log(self, line: str) -> None:
            super().log(line)
            seen.set()

    read, write = os.pipe()
    code = f"import os, sys; print('first', file=sys.stderr); os.read({read}, 1); print('last', file=sys.stderr)"
    progress = Watching()
    thread = threading.Thread(target=run, args=(code, progress), kwargs={"keep": (read,)})
    thread.start()
    assert seen.wait(20)
    assert progress.lines == ["first"]
    os.write(write, b"x")
    thread.join(20)
    assert progress.lines == ["first", "last"]
    os.close(read)
    os.close(write)


def test_lines_are_changed_before_they_are_logged() -> None:
    """What the log shows can be changed, or nothing shown."""
    progress = Quiet()
    run("import sys; print('secret', file=sys.stderr)", progress, show=lambda line: line.replace("secret", "-"))
    run("import sys; print('secret', file=sys.stderr)", progress, show=None)
    assert progress.lines == ["-"]


FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        time.sleep(300)
        os._exit(0)
print(os.getpid(), file=sys.stderr)
print("ready", file=sys.stderr)
time.sleep(300)
"""


def test_cancelled_work_ends_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling ends the command and its children, also where they ignore SIGTERM."""
    monkeypatch.setattr(commands, "_GRACE", 0.2)
    progress = CancelOn("ready")
    with pytest.raises(Cancelled):
        run(FAMILY, progress)
    group = int(progress.lines[0])
    assert processes.wait_until(lambda: not members(group), 10)


def members(group: int) -> list[int]:
    pids = []
    for pid in process_tree.list_pids():
        try:
            if os.getpgid(pid) == group and processes.identify(pid):
                pids.append(pid)
        except ProcessLookupError:
            continue
    return [pid for pid in pids if (one := processes.identify(pid)) and one.alive()]


@pytest.mark.slow
def test_work_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that takes longer than it may is ended, and the error says how long it had."""
    monkeypatch.setattr(commands, "_GRACE", 0.2)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
        run("import time; time.sleep(300)", timeout=0.5)


def test_what_a_command_leaves_behind_blocks_no_other() -> None:
    """A child that keeps the pipes open does not keep the command from being over, and ends with it."""
    progress = Quiet()
    code = """
import os, sys, time
if os.fork() == 0:
    time.sleep(300)
print(os.getpid(), file=sys.stderr)
"""
    assert run(code, progress).status == 0
    assert processes.wait_until(lambda: not members(int(progress.lines[0])), 10)


def test_much_output_is_kept_in_part() -> None:
    """Only the last lines are kept, however much comes."""
    result = run("for number in range(100_000): print(number)")
    lines = result.stdout.splitlines()
    assert lines[-1] == "99999"
    assert len(lines) < 1000


def test_a_program_that_is_not_there_is_unavailable() -> None:
    """The error names the program that cannot be started."""
    with pytest.raises(Unavailable, match="absent could not be started"):
        commands.run(["/nonexistent/absent"], env={}, progress=Quiet(), timeout=5, cwd=Path("/"))


def test_only_the_given_environment_is_there() -> None:
    """A command finds the environment that it is given and nothing of ours."""
    os.environ["VENVD_TEST_CANARY"] = "1"
    try:
        assert run("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))").stdout == "['PATH']"
    finally:
        del os.environ["VENVD_TEST_CANARY"]
