"""The process above the two parts of a backend: `python -I -m venvd_engines.local.supervisor DIRECTORY`.

It outlives the controller that started it. It starts server and worker host, writes down how they end, keeps their
output in bounded files, and, being a child subreaper, finds every process that user code left behind. What it starts
comes as JSON on its stdin, so that no setting of a backend is on a command line or in a file; a controller that was
killed before it sent all of it has started nothing. If the supervisor dies, the kernel takes both parts with it.

SIGTERM asks both parts to stop; SIGQUIT ends everything at once. It ends when both parts have ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from venvd_engines.local import state as records
from venvd_engines.local.journal import Writer
from venvd_engines.local.processes import identify
from venvd_worker.common.exit_status import describe_exit
from venvd_worker.common.process_tree import kill_below

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_READ = 64 << 10
_LAST_OUTPUT = 1.0
"""Seconds for the last output of what was killed."""
_HEARD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD)
_libc = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    def __init__(self, directory: Path, spec: dict[str, Any]) -> None:
        state = records.read(directory)
        if state is None:
            raise SystemExit(f"{directory} holds no record of a launch")
        self._directory = directory
        self._state = state
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._pids: dict[int, str] = {}
        self._journals: list[Writer] = []
        self._asked: set[int] = set()

    def run(self) -> None:
        self._hear_signals()
        for name in records.PARTS:
            self._start(name)
        self._spec.clear()
        self._record()
        while self._pids:
            self._turn(None)
        self._finish()

    def _hear_signals(self) -> None:
        wake, woken = os.pipe()
        for end in (wake, woken):
            os.set_blocking(end, False)
        self._selector.register(wake, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in _HEARD:
            signal.signal(number, lambda number, _: self._asked.add(number))

    def _obey(self) -> None:
        if signal.SIGQUIT in self._asked:
            kill_below(os.getpid())
        elif signal.SIGTERM in self._asked:
            # the server first: calls that run may end while the worker host is still there
            running = {name: pid for pid, name in self._pids.items()}
            for name in records.PARTS:
                if name in running:
                    _terminate(running[name])
                    break

    def _start(self, name: str) -> None:
        part = self._state.part(name)
        spec = self._spec[name]
        try:
            process = subprocess.Popen(
                spec["argv"],
                env=spec["env"],
                cwd=spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=_child_setup(os.getpid()),  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            part.state, part.detail = "exited", f"could not be started: {error}"
            return
        found = identify(process.pid)
        part.state, part.pid, part.start = "running", process.pid, found.start if found else None
        self._pids[process.pid] = name
        self._listen(name, process)
        process.returncode = 0  # reaped below, with everything else that ends here

    def _listen(self, name: str, process: subprocess.Popen[bytes]) -> None:
        journal = Writer(self._directory / f"{name}.log")
        self._journals.append(journal)
        for stream, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, (journal, stream))

    def _turn(self, timeout: float | None) -> None:
        """Wait for output, signals and ends, and see to them."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, _READ)
            else:
                self._copy(key.fileobj, *key.data)
        self._reap()
        self._obey()

    def _copy(self, pipe: Any, journal: Writer, stream: str) -> None:
        try:
            data = os.read(pipe.fileno(), _READ)
        except BlockingIOError:
            return
        if data:
            journal.feed(stream, data)
        else:
            self._selector.unregister(pipe)
            pipe.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._pids:
                self._ended(self._pids.pop(pid), describe_exit(status))

    def _ended(self, name: str, detail: str) -> None:
        part = self._state.part(name)
        part.state, part.detail = "exited", detail
        self._record()
        # whatever is left has lost the part that it belonged to
        kill_below(os.getpid(), spare=self._pids.__contains__)

    def _record(self) -> None:
        with contextlib.suppress(OSError):
            records.write(self._directory, self._state)

    def _finish(self) -> None:
        kill_below(os.getpid())
        end = time.monotonic() + _LAST_OUTPUT
        while len(self._selector.get_map()) > 1 and time.monotonic() < end:
            self._turn(0.05)
        for journal in self._journals:
            journal.close()


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _child_setup(supervisor: int) -> Callable[[], None]:
    def setup() -> None:
        signal.set_wakeup_fd(-1)
        for number in _HEARD:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died before the kernel knew that this process goes with it
            os._exit(1)

    return setup


def _spec(source: BinaryIO) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(source.read())
    except ValueError:
        raise SystemExit("the controller ended before it had said what to start") from None
    return found


def main() -> None:
    directory = Path(sys.argv[1])
    os.umask(0o077)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(directory, _spec(sys.stdin.buffer)).run()


if __name__ == "__main__":
    main()
