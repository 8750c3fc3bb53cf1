"""The process of the forwarder, through which user code reaches the egress broker."""

from __future__ import annotations

import os
import sys

from venvd_contract.internal import EGRESS
from venvd_worker.common import kernel
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.starter import leave_warden

_RESTART_SECONDS = 0.5


class ForwarderProcess:
    """Keeps one forwarder running, or none if the port is 0."""

    def __init__(self, loop: EventLoop, archive: str, channel: str, port: int) -> None:
        self._loop = loop
        flags = ["-I", "-S", "-B"] if sys.dont_write_bytecode else ["-I", "-S"]
        self._command = [sys.executable, *flags, archive, "forwarder", str(port), os.path.join(channel, EGRESS)]
        self._wanted = port > 0
        self._pid = 0

    def owns(self, pid: int) -> bool:
        return pid == self._pid

    def start(self) -> None:
        """Start the forwarder outside of the walls around sessions, because they hide the broker's socket."""
        if not self._wanted:
            return
        warden = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            self._loop.call_later(_RESTART_SECONDS, self.start)
            return
        if self._pid:
            return
        try:
            leave_warden(warden)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            kernel.set_oom_score(kernel.ZYGOTE_OOM_SCORE)
            kernel.forbid_new_privileges()
            kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
            os.execve(sys.executable, self._command, kept)
        finally:
            os._exit(127)

    def on_reaped(self, pid: int) -> None:
        """Start another forwarder if the reaped process was the forwarder."""
        if pid == self._pid:
            self._pid = 0
            self._loop.call_later(_RESTART_SECONDS, self.start)

    def close(self) -> None:
        """Start no further forwarder."""
        self._wanted = False
