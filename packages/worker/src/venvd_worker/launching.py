"""Launching a session: its directory, its channels, and what it is told that it is to be."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from venvd_contract.operations import Limits
from venvd_worker import control, directories, logs
from venvd_worker.environment import session_environment
from venvd_worker.slots import Memory, Watch
from venvd_worker.starting import Starter
from venvd_worker.ward import Ward


@dataclass(frozen=True)
class Settings:
    """What the warden is started with; `work_dir` holds the sessions' directories."""

    channel: str
    work_dir: str
    version: str
    site: Optional[str]
    env: Dict[str, str]


class Launcher:
    """Makes sessions; no two of them ever share a directory."""

    def __init__(self, settings: Settings, starter: Starter) -> None:
        self._settings = settings
        self._starter = starter
        self._number = 0

    def launch(self, name: str, index: int, limits: Limits, env: Dict[str, str], memory: Memory) -> Tuple[Ward, int]:
        """A new session with the slot `index`, and the server's end of its stream.

        Raises:
            OSError: no process could be made.
        """
        self._number += 1
        directory = directories.make(self._settings.work_dir, "{}-{}".format(name, self._number))
        environment = session_environment({**self._settings.env, **env}, directory)
        mine, its = control.pair()
        server_end, session_end = socket.socketpair()
        (output, output_end), (errors, errors_end) = logs.pipe(1), logs.pipe(2)
        try:
            pid = self._starter.start(its, output_end, errors_end, environment, directory)
        except OSError:
            for end in (server_end, session_end):
                end.close()
            for pipe in (output, errors):
                pipe.close()
            mine.close()
            directories.remove(directory.root)
            raise
        finally:
            its.close()
            control.close_all([output_end, errors_end])
        mine.send(self._config(limits, directory, memory, index), [session_end.detach(), os.dup(memory.descriptor)])
        return Ward(name, pid, Watch(memory, index), limits, directory, mine, [output, errors]), server_end.detach()

    def _config(self, limits: Limits, directory: directories.Directory, memory: Memory, index: int) -> Dict[str, Any]:
        return {
            "slots": memory.count,
            "slot": index,
            "limits": vars(limits),
            "files": directory.files,
            "site": self._settings.site,
        }
