"""Runs a program in a terminal of its own, types for it and reads its screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]|\x1b\][^\x07]*\x07")
PATIENCE = 60.0


class Terminal:
    """A running program on a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._unread = ""

    def type(self, text: str) -> None:
        """Send keys: a carriage return is Enter, the characters 3 and 4 are Ctrl-C and Ctrl-D."""
        os.write(self._descriptor, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the program has written the text, and return what came before it, without control sequences."""
        end = time.monotonic() + PATIENCE
        while text not in self._unread:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            data = b""
            with contextlib.suppress(OSError):  # the program has left the terminal
                data = os.read(self._descriptor, 1 << 16) if ready else b""
            if not data:
                raise AssertionError(f"{text!r} did not come, but {self._unread!r}")
            self._unread = _CONTROLS.sub("", self._unread + data.decode(errors="replace"))
        before, _, self._unread = self._unread.partition(text)
        return before

    def wait(self) -> int:
        """Read what the program still writes, and return its exit status."""
        with contextlib.suppress(OSError):
            while os.read(self._descriptor, 1 << 16):
                pass
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def open_terminal(command: Sequence[str], environment: dict[str, str], directory: str) -> Iterator[Terminal]:
    """Start a program as the leader of a terminal, and kill it at the end if it still runs."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(
        # what a shell starts in the background ignores SIGINT, and so would this program
        ["env", "--default-signal=INT", "setsid", "--ctty", "--wait", *command],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=directory,
        env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PAGER": "cat"},
    )
    os.close(follower)
    try:
        yield Terminal(process, leader)
    finally:
        os.close(leader)  # the terminal hangs up
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
