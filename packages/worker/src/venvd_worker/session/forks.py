"""What becomes of a process that the user's code forks: it is the user's, and never answers for the session."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from os import getpid
from typing import Callable, NoReturn, Sequence

session = 0
"""The process ID of the session, which this process may be a fork of."""


def is_session() -> bool:
    """Whether this process is the session, and no fork of it."""
    return getpid() == session


def claim() -> None:
    """Say that the session is this process, and no fork of it."""
    global session  # noqa: PLW0603 - there is one session in a process
    session = getpid()


def guard(descriptors: Callable[[], Sequence[int]]) -> None:
    """From now on a forked child loses the `descriptors` of the session and gets Python's own signal handlers."""
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
    """End a forked child whose code came back to where the session would answer."""
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
