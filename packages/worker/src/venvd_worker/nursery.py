"""The zygote as the warden sees it, and the forks of it that wait to become sessions."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence

from venvd_worker import children, control, directories, logs, usage
from venvd_worker.control import Control, Garbled
from venvd_worker.directories import Directory
from venvd_worker.endings import judge
from venvd_worker.environment import session_environment
from venvd_worker.fields import passable
from venvd_worker.loop import Loop
from venvd_worker.starting import Starter

STARTING, READY, FAILED, OFF = "starting", "ready", "failed", "off"

_LONGEST_WAIT = 40.0
"""Seconds that the first sessions wait for the first zygote; after them they start by exec."""
_FORK_WITHIN = 10.0
_PROBE_WITHIN = 15.0
_QUIET = 0.03
"""Seconds without a start before a fork is made ahead: it takes its time from nobody who waits."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LONG_LIFE = 60.0
"""Seconds after which a zygote that ends is taken for one that worked."""
_MOST_FAILURES = 5
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


class Child(NamedTuple):
    """A process that waits to be told which session it is."""

    pid: int
    control: Control


Ready = Callable[[Optional[Child]], None]
"""Takes the child, or None where the session has to start by exec."""


@dataclass
class _Fork:
    """One that was asked for and has not answered yet."""

    number: int
    control: Control
    probe: bool
    pid: Optional[int] = None


@dataclass
class _Zygote:
    pid: int
    control: Control
    memory_kills: int
    importing: Optional[str] = None
    ready_at: Optional[float] = None


@dataclass
class _Report:
    """How it stands with the zygote, for those who run the backend."""

    state: str
    why: str = ""
    preload: List[Dict[str, Any]] = field(default_factory=list)


class Nursery:
    """Keeps a zygote, and some forks of it made ahead.

    Args:
        tell: told `report` whenever it changed.
    """

    def __init__(self, loop: Loop, plan: Plan, starter: Starter, tell: Callable[[Dict[str, Any]], None]) -> None:
        self._loop = loop
        self._plan = plan
        self._starter = starter
        self._tell = tell
        self._pid = os.getpid()
        self._report = _Report(OFF)
        self._zygote: Optional[_Zygote] = None
        self._forks: Dict[int, _Fork] = {}
        self._spares: Deque[Child] = deque()
        self._waiting: Deque[Ready] = deque()
        self._number = 0
        self._directories: List[Directory] = []
        self._failures = 0
        self._patient = False
        self._taken_at = 0.0
        self._refilling = False
        self._closed = False

    @property
    def report(self) -> Dict[str, Any]:
        """The fields `state`, `why`, `preload` and `pid`."""
        pid = None if self._zygote is None else self._zygote.pid
        return {**vars(self._report), "pid": pid}

    def resident(self) -> int:
        """Bytes of memory of the zygote; its forks share nearly all of it."""
        return 0 if self._zygote is None else usage.resident(self._zygote.pid)

    def start(self) -> None:
        """Begin to prepare a zygote; the first sessions wait for it."""
        if self._plan.spares is None:
            return
        self._patient = True
        self._loop.later(_LONGEST_WAIT, self._lose_patience)
        self._spawn()

    def close(self) -> None:
        """End the zygote and what waits."""
        self._closed = True
        self._drop_zygote()
        for child in self._spares:
            self._drop(child)
        self._spares.clear()
        for directory in self._directories:
            directories.remove(directory.root)

    # ---- for the sessions

    def take(self, ready: Ready) -> None:
        """Have a child, now or as soon as there is one."""
        self._taken_at = monotonic()
        while self._spares:
            child = self._spares.popleft()
            self._loop.remove(child.control)
            if _fit(child.pid):
                self._refill_later()
                ready(child)
                return
            self._drop(child)
        if self._report.state == READY or self._patient:
            self._waiting.append(ready)
            self._ask_for_those_who_wait()
        else:
            ready(None)

    def discard(self, child: Child) -> None:
        """End a child that was taken, and is not needed."""
        child.control.close()
        children.end([child.pid])

    # ---- for those who reap

    def owns(self, pid: int) -> bool:
        """Whether a child of the warden belongs here; `hear` first."""
        zygote = self._zygote is not None and self._zygote.pid == pid
        return (
            zygote
            or any(fork.pid == pid for fork in self._forks.values())
            or any(child.pid == pid for child in self._spares)
        )

    def ended(self, pid: int, status: int) -> None:
        """A child of the warden was reaped."""
        zygote = self._zygote
        if zygote is not None and zygote.pid == pid:
            self.hear()
            memory_kill = usage.out_of_memory_kills() > zygote.memory_kills
            where = "" if zygote.importing is None else ' while it imported "{}"'.format(zygote.importing)
            self._fail("the zygote {}{}".format(judge(status, None, memory_kill)["how"], where))

    # ---- the zygote

    def _spawn(self) -> None:
        if self._closed or self._zygote is not None:
            return
        mine, its = control.pair()
        (output, output_end), (errors, errors_end) = logs.pipe(1), logs.pipe(2)
        for pipe in (output, errors):
            self._loop.add(pipe, partial(self._pass_on, pipe))
        try:
            directory = self._directory()
            env = session_environment({**_ONE_THREAD, **self._plan.env}, directory)
            pid = self._starter.start(its, output_end, errors_end, env, directory)
        except OSError as error:
            mine.close()
            self._fail("the zygote could not be started: {}".format(error))
            return
        finally:
            its.close()
            control.close_all([output_end, errors_end])
        self._zygote = _Zygote(pid, mine, usage.out_of_memory_kills())
        self._report = _Report(STARTING)
        self._loop.add(mine, self.hear)
        self._loop.later(self._plan.timeout, partial(self._check_prepared, self._zygote))
        mine.send({"site": self._plan.site, "preload": list(self._plan.preload)})

    def _directory(self) -> Directory:
        """A new one, whose name no session's can have."""
        number = len(self._directories) + 1
        self._directories.append(directories.make(self._plan.work_dir, ".zygote-{}".format(number)))
        return self._directories[-1]

    def _check_prepared(self, zygote: _Zygote) -> None:
        if zygote is self._zygote and zygote.importing is not None:
            self._fail('the import of "{}" was not done after {:g} s'.format(zygote.importing, self._plan.timeout))

    def _fail(self, why: str, *, for_good: bool = False) -> None:
        """Do without a zygote, for a while or for good."""
        zygote = self._drop_zygote()
        if zygote is not None and zygote.ready_at is not None and monotonic() - zygote.ready_at > _LONG_LIFE:
            self._failures = 0
        self._failures = _MOST_FAILURES if for_good else self._failures + 1
        if self._failures < _MOST_FAILURES:
            self._loop.later(min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE), self._spawn)
            why += "; sessions start without it until there is another"
        else:
            why += "; sessions start without it"
        self._report = _Report(FAILED, why, self._report.preload)
        self._tell(self.report)
        self._lose_patience()

    def _drop_zygote(self) -> Optional[_Zygote]:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._loop.remove(zygote.control)
            zygote.control.close()
            children.end([zygote.pid])
        for fork in list(self._forks.values()):
            self._drop_fork(fork)
        return zygote

    def _lose_patience(self) -> None:
        """Whoever waits for a fork starts by exec."""
        self._patient = False
        if self._report.state == READY:
            return
        while self._waiting:
            self._waiting.popleft()(None)

    def hear(self) -> None:
        """Take in all that the zygote has said: also of a child that became one of the warden's just now."""
        while self._zygote is not None:
            zygote = self._zygote
            try:
                packet = zygote.control.receive()
            except (EOFError, Garbled):
                self._loop.remove(zygote.control)  # its end tells the rest
                return
            if packet is None:
                return
            control.close_all(packet.descriptors)
            self._heard(zygote, packet.message)

    def _heard(self, zygote: _Zygote, message: Dict[str, Any]) -> None:
        if "importing" in message:
            zygote.importing = passable(message["importing"])
        elif "imported" in message:
            zygote.importing = None
            self._imported(message)
        elif "prepared" in message:
            self._prepared(message.get("threads"))
        elif "forked" in message:
            self._forked(message["forked"], message.get("pid"))
        elif "failed" in message:
            self._not_forked(message["failed"], passable(message.get("why")))

    def _imported(self, message: Dict[str, Any]) -> None:
        """It may say anything: what it imports is the user's."""
        seconds, error = message.get("seconds"), message.get("error")
        if len(self._report.preload) < len(self._plan.preload):
            self._report.preload.append(
                {
                    "module": passable(message["imported"]),
                    "seconds": seconds if type(seconds) is float and 0 <= seconds < float("inf") else 0.0,
                    "error": None if error is None else passable(error),
                }
            )

    def _prepared(self, threads: object) -> None:
        if threads != 1:
            why = "what it imported started {} threads, and a process with threads cannot be forked"
            why = why.format(passable(threads, 20))
            self._fail(why, for_good=True)
        else:
            self._ask(probe=True)

    def _trust(self, zygote: _Zygote) -> None:
        zygote.ready_at = monotonic()
        self._patient = False
        failed = [each for each in self._report.preload if each["error"]]
        why = "; ".join('"{module}" could not be imported: {error}'.format(**each) for each in failed)
        self._report = _Report(READY, why, self._report.preload)
        self._tell(self.report)
        self._ask_for_those_who_wait()
        self._refill()

    # ---- forks

    def _ask(self, *, probe: bool = False) -> None:
        zygote = self._zygote
        if zygote is None:
            return
        self._number += 1
        mine, its = control.pair()
        fork = self._forks[self._number] = _Fork(self._number, mine, probe)
        self._loop.add(mine, partial(self._hear_fork, fork))
        self._loop.later(_PROBE_WITHIN if probe else _FORK_WITHIN, partial(self._check_fork, fork))
        zygote.control.send({"fork": fork.number, "probe": probe}, [its.detach()])

    def _check_fork(self, fork: _Fork) -> None:
        if self._forks.get(fork.number) is fork:
            self._fail("a fork of the zygote did not answer")

    def _forked(self, number: object, pid: object) -> None:
        fork = self._forks.get(number) if type(number) is int else None
        if fork is not None and type(pid) is int:
            fork.pid = pid

    def _not_forked(self, number: object, why: str) -> None:
        fork = self._forks.get(number) if type(number) is int else None
        if fork is not None:
            self._fork_lost(fork, why)

    def _hear_fork(self, fork: _Fork) -> None:
        try:
            packet = fork.control.receive()
        except (EOFError, Garbled):
            self._fork_lost(fork, "it ended")
            return
        if packet is None:
            return
        control.close_all(packet.descriptors)
        self.hear()  # which process it is
        zygote = self._zygote
        if zygote is None or self._forks.get(fork.number) is not fork:
            return
        if fork.probe:
            self._drop_fork(fork)
            self._trust(zygote)
        elif fork.pid is not None and _parent(fork.pid) == self._pid:
            self._came(fork, fork.pid)
        else:
            self._fork_lost(fork, "it is no child of the warden")

    def _came(self, fork: _Fork, pid: int) -> None:
        del self._forks[fork.number]
        self._loop.remove(fork.control)
        child = Child(pid, fork.control)
        if self._waiting:
            self._waiting.popleft()(child)
        else:
            self._spares.append(child)
            self._loop.add(child.control, partial(self._spare_lost, child))
        self._refill_later()

    def _fork_lost(self, fork: _Fork, why: str) -> None:
        self._drop_fork(fork)
        if fork.probe:
            self._fail("a fork of the zygote does not work: {}".format(why))
        elif self._waiting:
            self._waiting.popleft()(None)
        else:
            self._loop.later(_FIRST_PAUSE, self._refill)

    def _drop_fork(self, fork: _Fork) -> None:
        self._forks.pop(fork.number, None)
        self._loop.remove(fork.control)
        fork.control.close()
        if fork.pid is not None and _parent(fork.pid) == self._pid:
            children.end([fork.pid])

    # ---- those that wait

    def _spare_lost(self, child: Child) -> None:
        """It has nothing to say: it ended, or was made to talk."""
        if child in self._spares:
            self._spares.remove(child)
            self._loop.remove(child.control)
            self._drop(child)
            self._loop.later(_FIRST_PAUSE, self._refill)

    def _drop(self, child: Child) -> None:
        self._loop.remove(child.control)
        self.discard(child)

    def _ask_for_those_who_wait(self) -> None:
        if self._report.state == READY:
            for _ in range(len(self._waiting) - len(self._forks)):
                self._ask()

    def _refill_later(self) -> None:
        if not self._refilling:
            self._refilling = True
            self._loop.later(_QUIET, self._refill_if_quiet)

    def _refill_if_quiet(self) -> None:
        self._refilling = False
        if monotonic() - self._taken_at < _QUIET:
            self._refill_later()
        else:
            self._refill()

    def _refill(self) -> None:
        """One after the other, so that a start never waits for more than one of them."""
        wanted = self._plan.spares or 0
        if self._report.state == READY and not self._forks and len(self._spares) < wanted:
            self._ask()

    def _pass_on(self, pipe: logs.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)
            pipe.close()


def _parent(pid: int) -> Optional[int]:
    fields = children.stat_fields(pid)
    return int(fields[1]) if fields else None


def _fit(pid: int) -> bool:
    """Whether a process runs: somebody may have killed or stopped it."""
    fields = children.stat_fields(pid)
    return bool(fields) and fields[0] in (b"S", b"R", b"D")
