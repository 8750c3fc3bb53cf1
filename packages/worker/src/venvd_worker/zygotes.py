"""Starting zygotes: what they are to be, the directory that they share, and what they print."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Dict, List, Optional, Sequence

from venvd_worker import control, directories, logs, usage
from venvd_worker.control import Control
from venvd_worker.directories import Directory
from venvd_worker.environment import session_environment
from venvd_worker.loop import Loop
from venvd_worker.progress import queued
from venvd_worker.starting import Starter

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Threads that stand in the way of a fork; what the venv itself asks for wins."""


@dataclass(frozen=True)
class Plan:
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
class Zygote:
    """One that was started; `ready_at` is when its first fork had proved that it can be forked."""

    pid: int
    control: Control
    memory_kills: int
    began: float
    importing: Optional[str] = None
    prepared: bool = False
    ready_at: Optional[float] = None

    def own_time(self) -> float:
        """Seconds since its start in which a processor was free for it."""
        return monotonic() - self.began - queued(self.pid)


class Zygotes:
    """Starts them, one after the other."""

    def __init__(self, loop: Loop, plan: Plan, starter: Starter) -> None:
        self._loop = loop
        self._plan = plan
        self._starter = starter
        self._directories: List[Directory] = []

    def start(self) -> Zygote:
        """A new one, told what to import.

        Raises:
            OSError: no process could be made.
        """
        mine, its = control.pair()
        streams: List[int] = []
        try:
            for target in (1, 2):
                pipe, end = logs.pipe(target)
                streams.append(end)
                self._loop.add(pipe, partial(self._pass_on, pipe))
            directory = self._directory()
            env = session_environment({**_ONE_THREAD, **self._plan.env}, directory)
            pid = self._starter.start(its, streams[0], streams[1], env, directory)
        except OSError:
            mine.close()
            raise
        finally:
            its.close()
            control.close_all(streams)
        mine.send({"site": self._plan.site, "preload": list(self._plan.preload)})
        return Zygote(pid, mine, usage.out_of_memory_kills(), monotonic())

    def close(self) -> None:
        """Remove what they left."""
        for directory in self._directories:
            directories.remove(directory.root)

    def _directory(self) -> Directory:
        """One whose name no session's can have: that of the last, which its forks may still look into."""
        if not self._directories or not directories.whole(self._directories[-1]):
            number = len(self._directories) + 1
            self._directories.append(directories.make(self._plan.work_dir, ".zygote-{}".format(number)))
        return self._directories[-1]

    def _pass_on(self, pipe: logs.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)
            pipe.close()
