"""Copies the output of sessions outside of `exec` to the worker host's own output, and never waits for it."""

from __future__ import annotations

import os
import select
from time import monotonic
from typing import Tuple

_CHUNK = 4096
"""Bytes that a writable pipe takes in one piece. So a write of the warden never blocks."""
_PER_SECOND = 1 << 20


class LogPipe:
    """The reading end of a pipe that carries one stream of a session's output.

    This drops output beyond a megabyte a second, and output that the reader of the worker host's log does not take.
    Neither may stop the warden.
    """

    def __init__(self, target: int, descriptor: int) -> None:
        self._target = target
        self._read = descriptor
        os.set_blocking(descriptor, False)
        self._second = 0.0
        self._copied = 0

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)

    def copy(self) -> bool:
        """Copy some bytes from the pipe. Return False once no process has its other end open."""
        try:
            data = os.read(self._read, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and self._within_rate(len(data)):
            _write(self._target, data)
        return bool(data)

    def _within_rate(self, size: int) -> bool:
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._copied = now, 0
        self._copied += size
        return self._copied <= _PER_SECOND


def _write(target: int, data: bytes) -> None:
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    if poll.poll(0) == [(target, select.POLLOUT)]:
        try:
            os.write(target, data)
        except OSError:
            pass


def make_pipe(target: int) -> Tuple[LogPipe, int]:
    """Make a pipe, and return its log pipe, which copies to descriptor `target`, and its writing end."""
    read, write = os.pipe()
    return LogPipe(target, read), write
