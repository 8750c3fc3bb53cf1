"""What sessions print outside of `exec`: passed on to the worker host's own output, and never waited for."""

from __future__ import annotations

import os
import select
from time import monotonic
from typing import Tuple

_CHUNK = 4096
"""No more than what a pipe that can be written takes in one piece, so that the warden never blocks."""
_PER_SECOND = 1 << 20


class LogPipe:
    """The end of a pipe that holds one stream of a session's output.

    What the reader of the worker host's log does not take, and what exceeds a megabyte a second, is dropped: neither
    may stop the warden.
    """

    def __init__(self, target: int, descriptor: int) -> None:
        self._target = target
        self._read = descriptor
        os.set_blocking(descriptor, False)
        self._second = 0.0
        self._passed = 0

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)

    def pass_on(self) -> bool:
        """Pass on the available output; false if no process holds the other end any more."""
        try:
            data = os.read(self._read, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and self._may_pass(len(data)):
            _write(self._target, data)
        return bool(data)

    def _may_pass(self, size: int) -> bool:
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._passed = now, 0
        self._passed += size
        return self._passed <= _PER_SECOND


def _write(target: int, data: bytes) -> None:
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    if poll.poll(0) == [(target, select.POLLOUT)]:
        try:
            os.write(target, data)
        except OSError:
            pass


def pipe(target: int) -> Tuple[LogPipe, int]:
    """A new pipe, and its end to write into."""
    read, write = os.pipe()
    return LogPipe(target, read), write
