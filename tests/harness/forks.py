"""Programs of this project as forks of a process that has imported them, which start at once."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

CONTROLLER = "venvd_controller.__main__:main"
COMMAND_LINE = "venvd._cli.app:run"


class Fork:
    """A running program, used as a `subprocess.Popen` is.

    Attributes:
        pid: its process ID.
        returncode: its exit code, or the negative number of the signal that ended it; None while it runs.
    """

    def __init__(self, pid: int, channel: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._channel = channel
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, channel)

    def poll(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program has ended, and return its exit code. Several threads may wait.

        Raises:
            subprocess.TimeoutExpired: it runs on after `timeout` seconds.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            with self._lock:
                if self.returncode is None:
                    self.returncode = _read_number(self._channel)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    program: str,
    words: Sequence[str],
    environment: Mapping[str, str],
    streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    *,
    directory: str | Path | None = None,
    leads: bool = False,
) -> Fork:
    """Start a program.

    Args:
        program: `MODULE:FUNCTION` of its entry.
        words: its arguments.
        environment: all of its environment.
        streams: stdin, stdout and stderr.
        directory: its working directory; the directory of temporary files if None.
        leads: whether it leads a session of its own.
    """
    ours, theirs = socket.socketpair()
    request = {
        "words": list(words),
        "environment": dict(environment),
        "directory": str(directory or tempfile.gettempdir()),
        "leads": leads,
    }
    with theirs:
        descriptors = [theirs.fileno(), *(stream.fileno() for stream in streams)]
        socket.send_fds(_connect(program), [json.dumps(request).encode()], descriptors)
    channel = ours.detach()
    return Fork(_read_number(channel), channel)


def _read_number(channel: int) -> int:
    """Read a line with a number from a channel."""
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(channel, 1)
        assert read, "the process that makes the forks has ended"
        line += read
    return int(line)


@functools.cache
def _connect(program: str) -> socket.socket:
    """Start the process whose forks a program is; one for each test process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = str(Path(__file__).with_name("fork_server.py"))
        process = subprocess.Popen([sys.executable, server, program], stdin=theirs)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
