"""The process above the two parts of a backend: `python -I -m venvd_engines.local.supervisor DIRECTORY`.

The supervisor outlives the controller that started it. It starts the server and the worker host, records how they
exit, and writes their output to bounded files. As a child subreaper it also finds the processes that user code leaves
behind. It reads the commands to start as JSON from its stdin, so no setting of a backend is on a command line or in a
file. If the controller is killed before it has sent all of them, nothing starts. If the supervisor dies, the kernel
kills both parts.

SIGTERM stops the server and then the worker host; SIGQUIT kills everything. The supervisor exits after both parts.
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
_LAST_OUTPUT_SECONDS = 1.0
"""How long the supervisor reads the pipes of killed processes."""
_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD)
_libc = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    """Starts both parts of a launch, and runs until they have exited."""

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
        self._received: set[int] = set()
        self._terminated: set[str] = set()

    def run(self) -> None:
        self._catch_signals()
        for name in records.PARTS:
            self._start(name)
        self._spec.clear()
        self._write_record()
        while self._pids:
            self._run_once(None)
        self._close()

    def _catch_signals(self) -> None:
        wake, woken = os.pipe()
        for end in (wake, woken):
            os.set_blocking(end, False)
        self._selector.register(wake, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, _: self._received.add(number))

    def _handle_signals(self) -> None:
        if signal.SIGQUIT in self._received:
            kill_below(os.getpid())
        elif signal.SIGTERM in self._received:
            # the server first: the worker host may still answer its running calls
            running = {name: pid for pid, name in self._pids.items()}
            for name in records.PARTS:
                if name in running:
                    if name not in self._terminated:
                        self._terminated.add(name)
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
                preexec_fn=_make_child_setup(os.getpid()),  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            part.state, part.detail = "exited", f"could not be started: {error}"
            return
        identity = identify(process.pid)
        part.state, part.pid, part.start = "running", process.pid, identity.start if identity else None
        self._pids[process.pid] = name
        self._listen(name, process)
        process.returncode = 0  # `_reap` reaps it, as it does all processes below

    def _listen(self, name: str, process: subprocess.Popen[bytes]) -> None:
        journal = Writer(self._directory / f"{name}.log")
        self._journals.append(journal)
        for stream, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, (journal, stream))

    def _run_once(self, timeout: float | None) -> None:
        """Wait for output, signals and exits, and handle them."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, _READ)
            else:
                self._copy(key.fileobj, *key.data)
        self._reap()
        self._handle_signals()

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
                self._note_exit(self._pids.pop(pid), describe_exit(status))

    def _note_exit(self, name: str, detail: str) -> None:
        part = self._state.part(name)
        part.state, part.detail = "exited", detail
        self._write_record()
        # the remaining processes below, except the other part, belonged to this part
        kill_below(os.getpid(), spare=self._pids.__contains__)

    def _write_record(self) -> None:
        with contextlib.suppress(OSError):
            records.write(self._directory, self._state)

    def _close(self) -> None:
        kill_below(os.getpid())
        end = time.monotonic() + _LAST_OUTPUT_SECONDS
        while len(self._selector.get_map()) > 1 and time.monotonic() < end:
            self._run_once(0.05)
        for journal in self._journals:
            journal.close()


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _make_child_setup(supervisor: int) -> Callable[[], None]:
    def setup() -> None:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # the supervisor died before PR_SET_PDEATHSIG took effect
            os._exit(1)

    return setup


def _read_spec(source: BinaryIO) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads(source.read())
    except ValueError:
        raise SystemExit("the controller exited before it had sent the commands to start") from None
    return spec


def main() -> None:
    directory = Path(sys.argv[1])
    os.umask(0o077)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(directory, _read_spec(sys.stdin.buffer)).run()


if __name__ == "__main__":
    main()
