"""Starting zygotes: what they are to be, the directory that they share, and what they print."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Dict, List, Optional, Sequence

from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import control, directories, usage
from venvd_worker.common.control import ControlConnection
from venvd_worker.common.directories import Directory
from venvd_worker.warden import log_pipe
from venvd_worker.warden.environment import session_environment
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.progress import queued
from venvd_worker.warden.starter import Starter

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Threads that stand in the way of a fork; what the venv itself asks for wins."""


@dataclass(frozen=True)
class ZygoteSettings:
    """What a zygote is to be.

    Attributes:
        preload: modules that it imports, in this order.
        timeout: seconds that this may take.
        spares: forks that wait to become sessions; None is no zygote at all.
    """

    work_dir: str
    site: Optional[str]
    env: Dict[str, str]
    preload: Sequence[str] = ()
    timeout: float = 30.0
    spares: Optional[int] = 2


@dataclass
class ZygoteProcess:
    """One that was started; `ready_at` is when its first fork had proved that it can be forked."""

    pid: int
    control: ControlConnection
    memory_kills: int
    began: float
    importing: Optional[str] = None
    prepared: bool = False
    ready_at: Optional[float] = None

    def own_time(self) -> float:
        """Seconds since its start in which a processor was free for it."""
        return monotonic() - self.began - queued(self.pid)


class ZygoteStarter:
    """Starts them, one after the other."""

    def __init__(self, loop: EventLoop, settings: ZygoteSettings, starter: Starter) -> None:
        self._loop = loop
        self._settings = settings
        self._starter = starter
        self._directories: List[Directory] = []

    def start(self) -> ZygoteProcess:
        """A new one, told what to import.

        Raises:
            OSError: no process could be made.
        """
        mine, its = control.make_pair()
        streams: List[int] = []
        try:
            for target in (1, 2):
                pipe, end = log_pipe.pipe(target)
                streams.append(end)
                self._loop.add(pipe, partial(self._pass_on, pipe))
            directory = self._directory()
            env = session_environment({**_ONE_THREAD, **self._settings.env}, directory)
            pid = self._starter.start(its, streams[0], streams[1], env, directory)
        except OSError:
            mine.close()
            raise
        finally:
            its.close()
            close_descriptors(streams)
        mine.send({"site": self._settings.site, "preload": list(self._settings.preload)})
        return ZygoteProcess(pid, mine, usage.out_of_memory_kills(), monotonic())

    def close(self) -> None:
        """Remove what they left."""
        for directory in self._directories:
            directories.remove(directory.root)

    def _directory(self) -> Directory:
        """One whose name no session's can have: that of the last, which its forks may still look into."""
        if not self._directories or not directories.whole(self._directories[-1]):
            number = len(self._directories) + 1
            self._directories.append(directories.make(self._settings.work_dir, ".zygote-{}".format(number)))
        return self._directories[-1]

    def _pass_on(self, pipe: log_pipe.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)
            pipe.close()
