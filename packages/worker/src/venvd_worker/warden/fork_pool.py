"""The fork pool: the warden's side of the zygote, and the forks that wait to become sessions.

- The pool keeps some forks ahead. It is refilled while no session is starting, one fork at a time.
- A new zygote must pass a probe first: a fork that starts a thread and, if numpy is loaded, multiplies two matrices.
- Sessions start as new interpreters if the zygote crashes, exceeds its time for imports, or has threads after them.
  Time in which no processor was free does not count. A module whose import fails is reported, and the others are
  preloaded.
- After a pause of at most a minute the pool starts another zygote, except when the imports left threads or when
  several zygotes in a row failed before they were ready.
- A session waits at most ten seconds for a fork; then it starts as a new interpreter. A fork that is slow because the
  machine is busy may arrive later. If a fork sleeps or is stopped, it is replaced; if the zygote is, the zygote is.
- A session also starts as a new interpreter if its `env` sets a variable that only counts at the start of an
  interpreter or a library (`venvd_contract.internal.environment`).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional

from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.messages import PreloadedModule, ZygoteReport
from venvd_worker.common import control, process_tree, usage
from venvd_worker.common.control import ControlConnection, InvalidPacket
from venvd_worker.common.exit_status import explain_exit
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.fields import passable
from venvd_worker.warden.progress import Progress
from venvd_worker.warden.starter import Starter
from venvd_worker.warden.zygote_process import ZygoteProcess, ZygoteSettings, ZygoteStarter

STARTING, READY, FAILED, OFF = "starting", "ready", "failed", "off"

_LONGEST_WAIT = 40.0
"""Seconds that the first sessions wait for the first zygote; after them they start by exec."""
_LOOK_EVERY = 5.0
"""Seconds between looks at a fork that has not answered."""
_FORK_WITHIN, _LONGEST_FORK = 10.0, 60.0
"""Seconds that somebody waits for a fork, and that one may take which gets on, but slowly."""
_LINGER = 0.5
"""Seconds that a zygote whose control connection is closed may take to end by itself."""
_QUIET = 0.03
"""Seconds without a start before the pool forks ahead, so that no start is delayed."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LONG_LIFE = 60.0
"""Seconds after which a zygote that ends does not lengthen the pause before the next."""
_MOST_FAULTS = 5
"""ZygoteStarter in a row that came to nothing by themselves; after them no other is tried."""


class Fork(NamedTuple):
    """A process that waits to be told which session it is."""

    pid: int
    control: ControlConnection


Ready = Callable[[Optional[Fork]], None]
"""Takes the child, or None where the session has to start by exec."""


@dataclass
class _PendingFork:
    """A requested fork that has not answered yet; no start waits for a late one."""

    number: int
    control: ControlConnection
    probe: bool
    asked_at: float
    progress: Progress = field(default_factory=Progress)
    late: bool = False
    pid: Optional[int] = None


class ForkPool:
    """Keeps a zygote, and some forks of it made ahead.

    Args:
        tell: told `report` whenever it changed.
    """

    def __init__(
        self, loop: EventLoop, settings: ZygoteSettings, starter: Starter, tell: Callable[[ZygoteReport], None]
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._zygotes = ZygoteStarter(loop, settings, starter)
        self._tell = tell
        self._pid = os.getpid()
        self._report = ZygoteReport(OFF)
        self._zygote: Optional[ZygoteProcess] = None
        self._forks: Dict[int, _PendingFork] = {}
        self._spares: Deque[Fork] = deque()
        self._waiting: Deque[Ready] = deque()
        self._number = 0
        self._failures = 0
        self._faults = 0
        self._patient = False
        self._wanted = settings.spares or 0
        self._taken_at = 0.0
        self._refilling = False
        self._closed = False

    @property
    def report(self) -> ZygoteReport:
        return replace(self._report, pid=None if self._zygote is None else self._zygote.pid)

    def resident(self) -> int:
        """Bytes of memory of the zygote; its forks share nearly all of it."""
        return 0 if self._zygote is None else usage.resident(self._zygote.pid)

    def start(self) -> None:
        """Begin to prepare a zygote; the first sessions wait for it."""
        if self._settings.spares is None:
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
        self._zygotes.close()

    # ---- for the sessions

    def take(self, ready: Ready) -> None:
        """Have a child, now or as soon as there is one."""
        self._taken_at = monotonic()
        while self._spares:
            child = self._spares.popleft()
            self._loop.remove(child.control)
            if _runs(child.pid):
                self._refill_later()
                ready(child)
                return
            self._drop(child)
        if self._report.state == READY or self._patient:
            self._waiting.append(ready)
            self._ask_for_those_who_wait()
        else:
            ready(None)

    def discard(self, child: Fork) -> None:
        """End a child that was taken, and is not needed."""
        child.control.close()
        process_tree.kill_tree([child.pid])

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
        if zygote is None or zygote.pid != pid:
            return
        self.hear()
        if zygote is self._zygote:
            memory_kill = usage.out_of_memory_kills() > zygote.memory_kills
            where = "" if zygote.importing is None else ' while it imported "{}"'.format(zygote.importing)
            self._fail("the zygote {}{}".format(explain_exit(status, memory_kill).how, where), faults=1)

    # ---- the zygote

    def _spawn(self) -> None:
        if self._closed or self._zygote is not None:
            return
        try:
            zygote = self._zygotes.start()
        except OSError as error:
            self._fail("the zygote could not be started: {}".format(error))
            return
        self._zygote = zygote
        self._report = ZygoteReport(STARTING)
        self._loop.add(zygote.control, self.hear)
        self._loop.later(self._settings.timeout, partial(self._check_prepared, zygote))

    def _check_prepared(self, zygote: ZygoteProcess) -> None:
        """The time in which there was no processor for it does not count."""
        if zygote is not self._zygote or zygote.prepared:
            return
        left = self._settings.timeout - zygote.own_time()
        if left > 0:
            self._loop.later(left, partial(self._check_prepared, zygote))
            return
        what = "its start" if zygote.importing is None else 'the import of "{}"'.format(zygote.importing)
        self._fail("{} was not done after {:g} s".format(what, self._settings.timeout), faults=1)

    def _fail(self, why: str, *, faults: int = 0) -> None:
        """Do without a zygote, for a while or for good.

        `faults` says how much it was its own doing. One that worked once is worth another try, however it ended.
        """
        zygote = self._drop_zygote()
        ready_at = None if zygote is None else zygote.ready_at
        lived_long = ready_at is not None and monotonic() - ready_at > _LONG_LIFE
        self._failures = 1 if lived_long else self._failures + 1
        self._faults = self._faults + faults if ready_at is None else 0
        if self._faults < _MOST_FAULTS:
            pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
            self._loop.later(pause, self._spawn)
            why += "; sessions start without it until there is another, which is tried in {:g} s".format(pause)
        else:
            why += "; sessions start without it"
        self._report = ZygoteReport(FAILED, why, self._report.preload)
        self._tell(self.report)
        self._lose_patience()

    def _drop_zygote(self) -> Optional[ZygoteProcess]:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._loop.remove(zygote.control)
            zygote.control.close()
            process_tree.kill_tree([zygote.pid])
        for fork in list(self._forks.values()):
            self._drop_fork(fork)
        return zygote

    def _lose_patience(self) -> None:
        """Let the sessions that wait for a fork start as new interpreters."""
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
            except (EOFError, InvalidPacket) as error:
                self._loop.remove(zygote.control)
                self._loop.later(_LINGER, partial(self._check_silent, zygote, str(error)))
                return
            if packet is None:
                return
            close_descriptors(packet.descriptors)
            self._heard(zygote, packet.message)

    def _check_silent(self, zygote: ZygoteProcess, why: str) -> None:
        """Most often its end has told the rest by now."""
        if zygote is self._zygote:
            self._fail("the zygote cannot be heard any more: {}".format(why), faults=1)

    def _heard(self, zygote: ZygoteProcess, message: Dict[str, Any]) -> None:
        if "importing" in message:
            zygote.importing = passable(message["importing"])
        elif "imported" in message:
            zygote.importing = None
            self._imported(message)
        elif "prepared" in message:
            zygote.prepared = True
            self._prepared(message.get("threads"))
        elif "forked" in message:
            self._forked(message["forked"], message.get("pid"))
        elif "failed" in message:
            self._not_forked(message["failed"], passable(message.get("why")))

    def _imported(self, message: Dict[str, Any]) -> None:
        """It may say anything: what it imports is the user's."""
        seconds, error = message.get("seconds"), message.get("error")
        if len(self._report.preload) < len(self._settings.preload):
            self._report.preload.append(
                PreloadedModule(
                    passable(message["imported"]),
                    seconds if type(seconds) is float and 0 <= seconds < float("inf") else 0.0,
                    None if error is None else passable(error),
                )
            )

    def _prepared(self, threads: object) -> None:
        if threads != 1:
            why = "what it imported started {} threads, and a process with threads cannot be forked"
            why = why.format(passable(threads, 20))
            self._fail(why, faults=_MOST_FAULTS)
        else:
            self._ask(probe=True)

    def _trust(self, zygote: ZygoteProcess) -> None:
        zygote.ready_at = monotonic()
        self._patient = False
        failed = [module for module in self._report.preload if module.error]
        why = "; ".join('"{}" could not be imported: {}'.format(each.module, each.error) for each in failed)
        self._report = ZygoteReport(READY, why, self._report.preload)
        self._tell(self.report)
        self._ask_for_those_who_wait()
        self._refill()

    # ---- forks

    def _ask(self, *, probe: bool = False) -> None:
        zygote = self._zygote
        if zygote is None:
            return
        self._number += 1
        mine, its = control.make_pair()
        fork = self._forks[self._number] = _PendingFork(self._number, mine, probe, monotonic())
        self._loop.add(mine, partial(self._hear_fork, fork))
        self._loop.later(_LOOK_EVERY, partial(self._look_at, fork, zygote))
        zygote.control.send({"fork": fork.number, "probe": probe}, [its.detach()])

    def _look_at(self, fork: _PendingFork, zygote: ZygoteProcess) -> None:
        """Check a slow fork: it may go on while it makes progress, but no start waits long for it."""
        if self._forks.get(fork.number) is not fork:
            return
        on_the_way = [fork.pid] if fork.pid is not None else process_tree.list_descendants([zygote.pid])
        gets_on = fork.progress.made(on_the_way)
        age = monotonic() - fork.asked_at
        if age < _FORK_WITHIN or (gets_on and age < _LONGEST_FORK):
            self._loop.later(_LOOK_EVERY, partial(self._look_at, fork, zygote))
            if age >= _FORK_WITHIN:
                self._let_go(fork)
        elif fork.probe or fork.pid is None:
            self._fail("a fork of the zygote did not answer within {:g} s".format(age), faults=int(fork.probe))
        else:
            self._fork_lost(fork, "it did not answer")

    def _let_go(self, fork: _PendingFork) -> None:
        """Let the session that waits for this fork start as a new interpreter."""
        if fork.probe:
            self._lose_patience()
        elif not fork.late and self._waiting:
            self._waiting.popleft()(None)
        fork.late = True

    def _forked(self, number: object, pid: object) -> None:
        fork = self._forks.get(number) if type(number) is int else None
        if fork is not None and type(pid) is int:
            fork.pid = pid

    def _not_forked(self, number: object, why: str) -> None:
        fork = self._forks.get(number) if type(number) is int else None
        if fork is not None:
            self._fork_lost(fork, why, faults=0)  # no room for a process: there may be some again soon

    def _hear_fork(self, fork: _PendingFork) -> None:
        try:
            packet = fork.control.receive()
        except (EOFError, InvalidPacket):
            self._fork_lost(fork, "it ended")
            return
        if packet is None:
            return
        close_descriptors(packet.descriptors)
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

    def _came(self, fork: _PendingFork, pid: int) -> None:
        del self._forks[fork.number]
        self._loop.remove(fork.control)
        child = Fork(pid, fork.control)
        if self._waiting:
            self._waiting.popleft()(child)
        elif len(self._spares) < self._wanted:
            self._spares.append(child)
            self._loop.add(child.control, partial(self._spare_lost, child))
        else:  # who wanted it did not wait for it
            self.discard(child)
        self._refill_later()

    def _fork_lost(self, fork: _PendingFork, why: str, faults: int = 1) -> None:
        self._drop_fork(fork)
        if fork.probe:
            self._fail("a fork of the zygote does not work: {}".format(why), faults=faults)
            return
        self._let_go(fork)
        self._loop.later(_FIRST_PAUSE, self._refill)

    def _drop_fork(self, fork: _PendingFork) -> None:
        self._forks.pop(fork.number, None)
        self._loop.remove(fork.control)
        fork.control.close()
        if fork.pid is not None and _parent(fork.pid) == self._pid:
            process_tree.kill_tree([fork.pid])

    # ---- those that wait

    def _spare_lost(self, child: Fork) -> None:
        """It has nothing to say: it ended, or was made to talk."""
        if child in self._spares:
            self._spares.remove(child)
            self._loop.remove(child.control)
            self._drop(child)
            self._loop.later(_FIRST_PAUSE, self._refill)

    def _drop(self, child: Fork) -> None:
        self._loop.remove(child.control)
        self.discard(child)

    def _ask_for_those_who_wait(self) -> None:
        if self._report.state == READY:
            for _ in range(len(self._waiting) - sum(not fork.late for fork in self._forks.values())):
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
        if self._report.state == READY and not self._forks and len(self._spares) < self._wanted:
            self._ask()


def _parent(pid: int) -> Optional[int]:
    stat = process_tree.read_stat(pid)
    return None if stat is None else stat.parent


def _runs(pid: int) -> bool:
    """Whether a process runs: user code may have killed or stopped it."""
    stat = process_tree.read_stat(pid)
    return stat is not None and stat.state in "SRD"
