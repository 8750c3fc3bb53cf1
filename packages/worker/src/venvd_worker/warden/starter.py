"""Starting a process of the worker archive: a fresh interpreter for each."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Dict, Protocol

from venvd_worker.common import kernel
from venvd_worker.common.directories import Directory

_CANNOT_START = 127
_NICE = 10
"""Below the warden, which must see a bomb of processes though it is one among hundreds."""


class Starter(Protocol):
    """How processes come to be. What they are to be, they read from `control`."""

    def start(self, control: socket.socket, output: int, errors: int, env: Dict[str, str], directory: Directory) -> int:
        """The process ID of a new process.

        Raises:
            OSError: no process could be made.
        """


class InterpreterStarter:
    """Each process is an interpreter of its own: it shares nothing, and takes as long as Python takes to start.

    Args:
        program: which of the archive's it runs.
    """

    def __init__(self, archive: str, program: str = "session") -> None:
        self._archive = archive
        self._program = program

    def start(self, control: socket.socket, output: int, errors: int, env: Dict[str, str], directory: Directory) -> int:
        warden = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            _become_child(warden)
            _take_streams(output, errors)
            os.set_inheritable(control.fileno(), True)
            os.chdir(directory.files)
            arguments = [sys.executable, "-I", self._archive, self._program, str(control.fileno())]
            os.execve(sys.executable, arguments, env)
        finally:
            os._exit(_CANNOT_START)


def _become_child(warden: int) -> None:
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != warden:  # it died before the line above
        os._exit(_CANNOT_START)
    os.setsid()
    if warden == 1:  # in a container of its own, where this affects no other process
        os.nice(_NICE)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _take_streams(output: int, errors: int) -> None:
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
