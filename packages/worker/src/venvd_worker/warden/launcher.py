"""Launching a session: its directory, its channels, and what it is told that it is to be."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from venvd_contract.commands import Limits
from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import control, directories
from venvd_worker.common.directories import Directory
from venvd_worker.common.slots import SlotMemory
from venvd_worker.warden import log_pipe
from venvd_worker.warden.environment import session_environment
from venvd_worker.warden.fork_pool import Fork
from venvd_worker.warden.log_pipe import LogPipe
from venvd_worker.warden.session_process import SessionProcess, SlotWatch
from venvd_worker.warden.starter import Starter


@dataclass(frozen=True)
class Settings:
    """What the warden is started with; `work_dir` holds the sessions' directories."""

    channel: str
    work_dir: str
    version: str
    site: Optional[str]
    env: Dict[str, str]


@dataclass(frozen=True)
class SessionOrder:
    """A session that was asked for; `env` is what its client asks for, `slot` its index in `memory`."""

    name: str
    slot: int
    limits: Limits
    env: Dict[str, str]
    memory: SlotMemory


class Launcher:
    """Makes sessions; no two of them ever share a directory."""

    def __init__(self, settings: Settings, starter: Starter) -> None:
        self._settings = settings
        self._starter = starter
        self._number = 0

    def launch(self, order: SessionOrder, child: Optional[Fork]) -> Tuple[SessionProcess, int]:
        """A new session, and the server's end of its stream.

        Args:
            order: what it is to be.
            child: the process that becomes it; a fresh one where there is none.

        Raises:
            OSError: no process could be made.
        """
        self._number += 1
        directory = directories.make(self._settings.work_dir, "{}-{}".format(order.name, self._number))
        env = session_environment({**self._settings.env, **order.env}, directory)
        (output, output_end), (errors, errors_end) = log_pipe.pipe(1), log_pipe.pipe(2)
        server_end, session_end = socket.socketpair()
        config = self._config(order, directory)
        descriptors = [session_end.detach(), os.dup(order.memory.descriptor)]
        try:
            if child is None:
                child = self._fresh([output_end, errors_end], env, directory)
                close_descriptors([output_end, errors_end])
            else:
                config["env"] = env
                descriptors += [output_end, errors_end]
        except OSError:
            server_end.close()
            close_descriptors([*descriptors, output_end, errors_end])
            _close([output, errors])
            directories.remove(directory.root)
            raise
        child.control.send(config, descriptors)
        watch = SlotWatch(order.memory, order.slot)
        session = SessionProcess(order.name, child.pid, watch, order.limits, directory, child.control, [output, errors])
        return session, server_end.detach()

    def _fresh(self, streams: Sequence[int], env: Dict[str, str], directory: Directory) -> Fork:
        mine, its = control.make_pair()
        try:
            return Fork(self._starter.start(its, streams[0], streams[1], env, directory), mine)
        except OSError:
            mine.close()
            raise
        finally:
            its.close()

    def _config(self, order: SessionOrder, directory: Directory) -> Dict[str, Any]:
        return {
            "slots": order.memory.count,
            "slot": order.slot,
            "limits": vars(order.limits),
            "files": directory.files,
            "site": self._settings.site,
        }


def _close(pipes: List[LogPipe]) -> None:
    for pipe in pipes:
        pipe.close()
