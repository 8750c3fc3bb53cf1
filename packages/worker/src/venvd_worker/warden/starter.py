"""Starts a program of the worker archive in a new interpreter."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Dict, Optional, Tuple

from venvd_worker.common import kernel, namespaces
from venvd_worker.common.directories import Directory
from venvd_worker.common.walls import Walls

_CANNOT_START = 127
_NICENESS = 10
"""Gives processes less time than the warden, which must notice a fork bomb as one process among hundreds."""


class InterpreterStarter:
    """Starts `program` of the archive. Each process is a new interpreter that shares nothing with others."""

    def __init__(self, archive: str, program: str, walls: Walls, oom_score: int) -> None:
        self._archive = archive
        self._program = program
        self._oom_score = oom_score
        self.walls = walls

    def start(
        self,
        control: socket.socket,
        streams: Tuple[int, int],
        env: Dict[str, str],
        directory: Directory,
        shared: Optional[str] = None,
    ) -> int:
        """Start a process that reads its configuration from `control`, and return its process ID.

        The process works in `directory`, and may write to it. A zygote may write to all of `shared`. `streams` are the
        descriptors for standard output and standard error.

        Raises:
            OSError: the kernel makes no process.
        """
        warden = os.getpid()
        namespaced = shared is None and self.walls.namespaces
        pid = namespaces.fork() if namespaced else os.fork()
        if pid:
            return pid
        try:
            leave_warden(None if namespaced else warden)
            empty = os.open(os.devnull, os.O_RDONLY)
            for number, descriptor in enumerate((empty, *streams)):
                os.dup2(descriptor, number)
            os.set_inheritable(control.fileno(), True)
            flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
            arguments = [sys.executable, *flags, self._archive, self._program, str(control.fileno())]
            kernel.set_oom_score(self._oom_score)
            # This comes before `exec`, because a session's environment may name a library that the loader runs.
            if shared is None:
                self.walls.close_in(directory.root)
            else:
                self.walls.close_in_zygote(shared)
            self.walls.filter_calls()
            os.chdir(directory.files)
            os.execve(sys.executable, arguments, env)
        finally:
            os._exit(_CANNOT_START)


def leave_warden(warden: Optional[int]) -> None:
    """Make this fork of the warden independent, except that it ends with the warden.

    A process in its own namespaces does not know the warden's process ID, and ends with the container.
    """
    if warden is not None:
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != warden:  # the warden died before the line above
            os._exit(_CANNOT_START)
    os.setsid()
    if warden in {None, 1}:  # in a container: outside of one, niceness would change the process's share of the machine
        os.nice(_NICENESS)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
