"""Launching a session: its directory, its connections and its configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from venvd_contract.internal.control import close_descriptors
from venvd_contract.session_requests import Limits
from venvd_contract.spinning import count_cores
from venvd_worker.common import control, directories
from venvd_worker.common.directories import Directory
from venvd_worker.common.slots import SlotMemory
from venvd_worker.warden import log_pipe
from venvd_worker.warden.environment import build_environment
from venvd_worker.warden.fork_pool import Fork
from venvd_worker.warden.session_process import SessionProcess, WatchedSlot
from venvd_worker.warden.starter import InterpreterStarter


@dataclass(frozen=True)
class Settings:
    """The settings of a warden.

    Attributes:
        work_dir: contains the directories of the sessions.
        env: the variables of the venv and the backend.
        stop_wait: seconds that the warden goes on after a stop signal while its server is connected.
        proxy_port: port at which user code reaches the egress broker; 0 for none.
    """

    channel: str
    work_dir: str
    version: str
    site: Optional[str]
    env: Dict[str, str]
    stop_wait: float = 0.0
    proxy_port: int = 0


@dataclass(frozen=True)
class SessionOrder:
    """A checked `start`. `slot` is an index in `memory`, and the other fields are those of `Start`."""

    name: str
    slot: int
    limits: Limits
    env: Dict[str, str]
    lease: float
    compat: bool
    standby: bool
    cwd: str
    memory: SlotMemory

    @property
    def terms(self) -> Dict[str, Any]:
        """The part of the configuration that is the same for most sessions."""
        return {"limits": vars(self.limits), "lease": self.lease, "compat": self.compat}


class Launcher:
    """Launches sessions, each with its own directory."""

    def __init__(self, settings: Settings, starter: InterpreterStarter) -> None:
        self._settings = settings
        self._starter = starter
        self.spin = 0
        """Microseconds that a wait of a session may spin. The server sets them."""
        self._spinners = min(count_cores(), len(os.sched_getaffinity(0))) - 1

    def launch(self, order: SessionOrder, ends: Sequence[int], fork: Optional[Fork]) -> SessionProcess:
        """Make `fork` the session, or a new interpreter if `fork` is None. Give it copies of its connections' `ends`.

        The caller closes the descriptors in `ends`.

        Raises:
            OSError: the kernel makes no process, or does not pass the connections to it.
        """
        directory = directories.make(self._settings.work_dir) if fork is None else fork.directory
        env = build_environment({**self._settings.env, **order.env}, directory)
        (output, output_end), (errors, errors_end) = log_pipe.make_pipe(1), log_pipe.make_pipe(2)
        config = self._configure(order, directory)
        descriptors = [*map(os.dup, ends), os.dup(order.memory.descriptor)]
        try:
            if fork is None:
                fork = self._start_interpreter((output_end, errors_end), env, directory)
                close_descriptors([output_end, errors_end])
            else:
                config["env"] = env
                descriptors += [output_end, errors_end]
            fork.control.send(config, descriptors)
        except OSError:
            close_descriptors([*descriptors, output_end, errors_end])
            output.close()
            errors.close()
            directories.remove(directory.root)
            raise
        slot = WatchedSlot(order.memory, order.slot)
        logs = [output, errors]
        session = SessionProcess(order.name, fork.pid, slot, order.limits, directory, fork.control, logs)
        session.standby = order.standby
        return session

    def _start_interpreter(self, streams: Tuple[int, int], env: Dict[str, str], directory: Directory) -> Fork:
        own, other = control.make_pair()
        try:
            return Fork(self._starter.start(other, streams, env, directory), own, directory)
        except OSError:
            own.close()
            raise
        finally:
            other.close()

    def _configure(self, order: SessionOrder, directory: Directory) -> Dict[str, Any]:
        return {
            "slots": order.memory.count,
            "slot": order.slot,
            **order.terms,
            "files": directory.files,
            "cwd": order.cwd,
            "site": self._settings.site,
            "spin": self.spin,
            "spinners": self._spinners,
        }
