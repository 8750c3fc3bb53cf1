"""Runs the programs of a build: logs their output as it comes, and ends their whole process group."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from venvd_contract.errors import DeadlineExceeded, Unavailable
from venvd_engines.engine import Progress

_TICK = 0.2
_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""
_KEPT_LINES = 400


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `stdout` and `stderr` are the last lines of each."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    progress: Progress,
    timeout: float,
    cwd: Path,
    show: Callable[[str], str] | None = str,
    keep: Sequence[int] = (),
    started: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run a program to its end.

    Args:
        argv: the program and its arguments.
        env: the whole environment of the program.
        progress: receives the program's stderr, and may cancel the program.
        timeout: seconds.
        cwd: the program's working directory.
        show: changes a line of stderr for the log; None logs nothing.
        keep: descriptors that the program inherits.
        started: receives the program's process ID.

    Raises:
        Cancelled: from `progress.check`; the whole process group is gone.
        DeadlineExceeded: the program ran longer than `timeout`; the process group is gone.
        Unavailable: the program could not be started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    except OSError as error:
        raise Unavailable(f"{Path(argv[0]).name} could not be started: {error}") from None
    with process:
        try:
            started(process.pid)
            return _follow(process, progress, timeout, show)
        finally:
            _end(process)


def _follow(
    process: subprocess.Popen[bytes],
    progress: Progress,
    timeout: float,
    show: Callable[[str], str] | None,
) -> Outcome:
    end = time.monotonic() + timeout
    stdout, stderr = _Lines(None), _Lines(lambda line: progress.log(show(line)) if show else None)
    with selectors.DefaultSelector() as selector:
        for pipe, lines in ((process.stdout, stdout), (process.stderr, stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, lines)
        while True:
            progress.check()
            if time.monotonic() > end:
                raise DeadlineExceeded(f"{_name(process)} did not end within {timeout:g} s")
            # check before reading, so that the last output is read
            ended = process.poll() is not None
            ready = selector.select(0 if ended else _TICK)
            for key, _ in ready:
                if not key.data.read(key.fileobj):
                    selector.unregister(key.fileobj)
            if ended and not ready:  # another process may keep the pipes open
                break
    return Outcome(process.returncode, stdout.text(), stderr.text())


def _name(process: subprocess.Popen[bytes]) -> str:
    argv = process.args
    return Path(str(argv[0])).name if isinstance(argv, list) else str(argv)


class _Lines:
    """Keeps the last lines of a pipe, and passes each line on once."""

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self._log = log
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""

    def read(self, pipe: IO[bytes]) -> bool:
        data = os.read(pipe.fileno(), 64 << 10)
        *lines, self._partial = (self._partial + data).split(b"\n")
        if not data and self._partial:
            lines, self._partial = [self._partial], b""
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            self._kept.append(text)
            if self._log is not None and text.strip():
                self._log(text)
        return bool(data)

    def text(self) -> str:
        return "\n".join(self._kept)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, even after the program itself has ended."""
    if process.poll() is None:
        end_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    end_group(process.pid, signal.SIGKILL)
    process.wait()


def end_group(leader: int, number: int) -> None:
    """Send a signal to every process of a group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
