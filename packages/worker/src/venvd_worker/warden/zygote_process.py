"""Starts zygotes, with their settings, the directory that they share, and their output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from typing import Dict, List, Optional, Sequence

from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import control, directories, usage
from venvd_worker.common.control import ControlConnection
from venvd_worker.common.directories import Directory
from venvd_worker.warden import log_pipe
from venvd_worker.warden.environment import build_environment
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.log_pipe import LogPipe
from venvd_worker.warden.progress import read_queue_time
from venvd_worker.warden.starter import InterpreterStarter

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Keeps OpenBLAS from starting threads, because forks of a process with threads may hang. The venv's variables win."""


@dataclass(frozen=True)
class ZygoteSettings:
    """The configuration of a zygote.

    Attributes:
        preload: modules that it imports, in this order.
        timeout: seconds that the imports may take.
        spares: number of forks that wait to become sessions; None for no zygote.
    """

    work_dir: str
    site: Optional[str]
    env: Dict[str, str]
    preload: Sequence[str] = ()
    timeout: float = 30.0
    spares: Optional[int] = 2


@dataclass
class ZygoteProcess:
    """A started zygote. `ready_at` is the time when its first fork has proved that forks work."""

    pid: int
    control: ControlConnection
    memory_kills: int
    started_at: float
    importing: Optional[str] = None
    prepared: bool = False
    ready_at: Optional[float] = None

    def own_time(self) -> float:
        """Return the seconds since its start, without the time that it waited for a processor."""
        return monotonic() - self.started_at - read_queue_time(self.pid)


class ZygoteStarter:
    """Starts zygotes, one after the other."""

    def __init__(self, loop: EventLoop, settings: ZygoteSettings, starter: InterpreterStarter) -> None:
        self._loop = loop
        self._settings = settings
        self._starter = starter
        self._directories: List[Directory] = []

    def start(self) -> ZygoteProcess:
        """Start a zygote and tell it what to import.

        Raises:
            OSError: the kernel makes no process.
        """
        own, other = control.make_pair()
        streams: List[int] = []
        try:
            for target in (1, 2):
                pipe, end = log_pipe.make_pipe(target)
                streams.append(end)
                self._loop.add(pipe, partial(self._copy_log, pipe))
            directory = self._find_directory()
            env = build_environment({**_ONE_THREAD, **self._settings.env}, directory)
            # Each fork of the zygote later confines itself to the directory of its session.
            pid = self._starter.start(other, (streams[0], streams[1]), env, directory, self._settings.work_dir)
        except OSError:
            own.close()
            raise
        finally:
            other.close()
            close_descriptors(streams)
        walls = asdict(self._starter.walls)
        own.send({"site": self._settings.site, "preload": list(self._settings.preload), "walls": walls})
        return ZygoteProcess(pid, own, usage.out_of_memory_kills(), monotonic())

    @property
    def namespaced(self) -> bool:
        """Whether each fork has its own namespaces."""
        return self._starter.walls.namespaces

    def close(self) -> None:
        """Remove the directories of the zygotes."""
        for directory in self._directories:
            directories.remove(directory.root)

    def _find_directory(self) -> Directory:
        """Return the last zygote's directory if it is intact, because forks may still use it. Else make a new one."""
        if not self._directories or not directories.is_intact(self._directories[-1]):
            self._directories.append(directories.make(self._settings.work_dir))
        return self._directories[-1]

    def _copy_log(self, pipe: LogPipe) -> None:
        if not pipe.copy():
            self._loop.remove(pipe)
            pipe.close()
