"""Forks that user code makes. They belong to the user, and never answer requests of the session."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from os import getpid
from typing import Callable, NoReturn, Sequence

session = 0
"""The process ID of the session. This process is the session or a fork of it."""


def is_session() -> bool:
    """Return whether this process is the session itself."""
    return getpid() == session


def claim() -> None:
    """Note that this process is the session."""
    global session  # noqa: PLW0603 - there is one session in a process
    session = getpid()


def guard(descriptors: Callable[[], Sequence[int]]) -> None:
    """Have each forked child close the session's `descriptors` and restore Python's own signal handlers."""
    claim()

    def in_child() -> None:
        for descriptor in descriptors():
            try:
                os.close(descriptor)
            except OSError:
                pass
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)

    os.register_at_fork(after_in_child=in_child)


def leave(error: "BaseException | None") -> NoReturn:
    """End a forked child when its code returns into code of the session."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)
