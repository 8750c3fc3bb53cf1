"""Starting a program of the worker archive in a new interpreter."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Dict

from venvd_worker.common import kernel
from venvd_worker.common.directories import Directory

_CANNOT_START = 127
_NICENESS = 10
"""Below the warden, which must see a fork bomb although it is one process among hundreds."""


class InterpreterStarter:
    """Starts `program` of the archive; each process is an interpreter that shares nothing."""

    def __init__(self, archive: str, program: str) -> None:
        self._archive = archive
        self._program = program

    def start(self, control: socket.socket, output: int, errors: int, env: Dict[str, str], directory: Directory) -> int:
        """Start a process that reads its configuration from `control`; its process ID.

        Raises:
            OSError: no process could be made.
        """
        warden = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            _leave_warden(warden)
            empty = os.open(os.devnull, os.O_RDONLY)
            for number, descriptor in enumerate((empty, output, errors)):
                os.dup2(descriptor, number)
            os.set_inheritable(control.fileno(), True)
            os.chdir(directory.files)
            flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
            arguments = [sys.executable, *flags, self._archive, self._program, str(control.fileno())]
            os.execve(sys.executable, arguments, env)
        finally:
            os._exit(_CANNOT_START)


def _leave_warden(warden: int) -> None:
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != warden:  # it died before the line above
        os._exit(_CANNOT_START)
    os.setsid()
    if warden == 1:  # in a container: outside of one, niceness would change the process's share of the machine
        os.nice(_NICENESS)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
