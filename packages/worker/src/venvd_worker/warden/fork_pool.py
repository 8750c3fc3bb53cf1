"""The fork pool: the warden's side of the zygote, and the forks that wait to become sessions.

- The pool keeps some spare forks. It refills them while no session is starting.
- A new zygote must first pass a probe: a fork that starts a thread and, if numpy is loaded, multiplies two matrices.
- If the import of a module fails, the pool reports it, and the zygote imports the others.
- Sessions start as new interpreters if the zygote crashes, exceeds its time for imports, or has threads after them.
  Time without a free processor does not count.
- After a pause of at most a minute the pool starts another zygote. It stops trying if the imports left threads, or if
  several zygotes in a row failed before they were ready.
- A session waits ten seconds or a little more for a fork. Then it starts as a new interpreter. A fork that is slow
  because the machine is busy may still become a spare. The pool gives up a fork that makes no progress. If the
  zygote makes none while it forks, the pool gives up the zygote.
- A session also starts as a new interpreter if its `env` sets a variable that only counts at the start of an
  interpreter or a library (`venvd_contract.internal.environment`).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional

from venvd_contract.internal.control import MOST_DESCRIPTORS, close_descriptors
from venvd_contract.internal.messages import PreloadedModule, ZygoteReport
from venvd_worker.common import control, directories, process_tree, usage
from venvd_worker.common.control import ControlConnection, InvalidPacket
from venvd_worker.common.directories import Directory
from venvd_worker.common.exit_status import explain_exit
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.progress import Progress
from venvd_worker.warden.server import Server
from venvd_worker.warden.starter import InterpreterStarter
from venvd_worker.warden.untrusted import to_text
from venvd_worker.warden.zygote_process import ZygoteProcess, ZygoteSettings, ZygoteStarter

STARTING, READY, FAILED, OFF = "starting", "ready", "failed", "off"

_FIRST_ZYGOTE_TIMEOUT = 40.0
"""Seconds that the first sessions wait for the first zygote. Then they start as new interpreters."""
_CHECK_INTERVAL = 5.0
"""Seconds between checks of a fork that has not answered."""
_FORK_TIMEOUT, _SLOW_FORK_TIMEOUT = 10.0, 60.0
"""Seconds that a session waits for a fork, and seconds that a fork may take if it makes progress."""
_CLOSED_GRACE = 0.5
"""Seconds in which the warden may reap a zygote after its control connection broke."""
_QUIET = 0.03
"""Seconds without a start of a session before the pool refills, so that a refill slows no start."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_LONG_LIFE = 60.0
"""Seconds of life after which the end of a zygote does not lengthen the pause before the next."""
_MOST_FAULTS = 5
"""Zygotes in a row that may fail by their own fault before they are ready. Then the pool starts no other."""


class Fork(NamedTuple):
    """A process that waits for the configuration of its session. It is confined to the directory of the session."""

    pid: int
    control: ControlConnection
    directory: Directory


TakeFork = Callable[[Optional[Fork]], None]
"""Takes a fork, or None if the session must start as a new interpreter."""


@dataclass
class _PendingFork:
    """A fork that the pool has requested and that has not answered. No session waits for a late one."""

    number: int
    control: ControlConnection
    directory: Directory
    probe: bool
    requested_at: float
    progress: Progress = field(default_factory=Progress)
    late: bool = False
    pid: Optional[int] = None


class ForkPool:
    """Keeps a zygote, replaces it when it fails, and reports each change to the server."""

    def __init__(self, loop: EventLoop, settings: ZygoteSettings, starter: InterpreterStarter, server: Server) -> None:
        self._loop = loop
        self._settings = settings
        self._starter = ZygoteStarter(loop, settings, starter)
        self._server = server
        self._pid = os.getpid()
        self._report = ZygoteReport(OFF)
        self._zygote: Optional[ZygoteProcess] = None
        self._pending: Dict[int, _PendingFork] = {}
        self._spares: Deque[Fork] = deque()
        self._waiting: Deque[TakeFork] = deque()
        self._number = 0
        self._failures = 0
        self._faults = 0
        self._awaiting_first = False
        """Whether sessions wait for the first zygote."""
        self._taken_at = 0.0
        self._refilling = False
        self._closed = False
        self._usual: Optional[Dict[str, Any]] = None
        """The terms of the first session. Most sessions have the same terms."""

    @property
    def report(self) -> ZygoteReport:
        return replace(self._report, pid=None if self._zygote is None else self._zygote.pid)

    def resident(self) -> int:
        """Return the bytes of memory of the zygote. Its forks share nearly all of it."""
        return 0 if self._zygote is None else usage.resident(self._zygote.pid)

    def start(self) -> None:
        """Start the first zygote. Sessions wait for it."""
        if self._settings.spares is None:
            return
        self._awaiting_first = True
        self._loop.call_later(_FIRST_ZYGOTE_TIMEOUT, self._stop_waiting)
        self._start_zygote()

    def close(self) -> None:
        """End the zygote and the spare forks."""
        self._closed = True
        self._end_zygote()
        for fork in self._spares:
            self._loop.remove(fork.control)
            self.discard(fork)
        self._spares.clear()
        self._starter.close()

    # ---- for sessions

    def take(self, take_fork: TakeFork, terms: Dict[str, Any]) -> None:
        """Give a fork or None to `take_fork`, now or later. `terms` are part of the session's configuration."""
        if self._usual is None:
            self._usual = terms
        self._taken_at = monotonic()
        while self._spares:
            fork = self._spares.popleft()
            self._loop.remove(fork.control)
            if _is_running(fork.pid):
                self._refill_when_quiet()
                take_fork(fork)
                return
            self.discard(fork)
        if self._report.state == READY or self._awaiting_first:
            self._waiting.append(take_fork)
            self._request_for_waiting()
        else:
            take_fork(None)

    def discard(self, fork: Fork) -> None:
        """End a fork that no session needs."""
        fork.control.close()
        process_tree.kill_tree([fork.pid])
        directories.remove(fork.directory.root)

    # ---- for the reaper

    def owns(self, pid: int) -> bool:
        """Return whether a child of the warden belongs to the pool. Call `read_zygote` first."""
        return (
            (self._zygote is not None and self._zygote.pid == pid)
            or any(fork.pid == pid for fork in self._pending.values())
            or any(fork.pid == pid for fork in self._spares)
        )

    def on_reaped(self, pid: int, status: int) -> None:
        """Give up the zygote if it is the child that the warden has reaped."""
        zygote = self._zygote
        if zygote is None or zygote.pid != pid:
            return
        self.read_zygote()
        if zygote is self._zygote:
            is_memory_kill = usage.out_of_memory_kills() > zygote.memory_kills
            during_import = "" if zygote.importing is None else ' while it imported "{}"'.format(zygote.importing)
            self._fail("the zygote {}{}".format(explain_exit(status, is_memory_kill).how, during_import), faults=1)

    # ---- the zygote

    def _start_zygote(self) -> None:
        if self._closed or self._zygote is not None:
            return
        try:
            zygote = self._starter.start()
        except OSError as error:
            self._fail("the zygote could not be started: {}".format(error))
            return
        self._zygote = zygote
        self._report = ZygoteReport(STARTING)
        self._loop.add(zygote.control, self.read_zygote)
        self._loop.call_later(self._settings.timeout, partial(self._check_imports, zygote))

    def _check_imports(self, zygote: ZygoteProcess) -> None:
        """Give up a zygote whose imports take too long. Time without a free processor does not count."""
        if zygote is not self._zygote or zygote.prepared:
            return
        remaining = self._settings.timeout - zygote.own_time()
        if remaining > 0:
            self._loop.call_later(remaining, partial(self._check_imports, zygote))
            return
        unfinished = "its start" if zygote.importing is None else 'the import of "{}"'.format(zygote.importing)
        self._fail("{} was not done after {:g} s".format(unfinished, self._settings.timeout), faults=1)

    def read_zygote(self) -> None:
        """Read all messages of the zygote. They tell which new children of the warden are forks."""
        while self._zygote is not None:
            zygote = self._zygote
            try:
                packet = zygote.control.receive()
            except (EOFError, InvalidPacket) as error:
                self._loop.remove(zygote.control)
                self._loop.call_later(_CLOSED_GRACE, partial(self._fail_if_still, zygote, str(error)))
                return
            if packet is None:
                return
            close_descriptors(packet.descriptors)
            self._handle(zygote, packet.message)

    def _fail_if_still(self, zygote: ZygoteProcess, why: str) -> None:
        """Give up a zygote whose connection broke, unless the warden has reaped it meanwhile."""
        if zygote is self._zygote:
            self._fail("the zygote cannot be heard any more: {}".format(why), faults=1)

    def _handle(self, zygote: ZygoteProcess, message: Dict[str, Any]) -> None:
        """Handle one message of the zygote. Do not trust it, because the zygote imports the user's modules."""
        if "importing" in message:
            zygote.importing = to_text(message["importing"])
        elif "imported" in message:
            zygote.importing = None
            self._note_import(message)
        elif "prepared" in message:
            zygote.prepared = True
            threads = message.get("threads")
            if threads == 1:
                self._request_forks(1, probe=True)
            else:
                why = "what it imported started {} threads, and a process with threads cannot be forked"
                self._fail(why.format(to_text(threads, 20)), faults=_MOST_FAULTS)
        elif "forked" in message:
            fork, pid = self._find_pending(message["forked"]), message.get("pid")
            if fork is not None and type(pid) is int:
                fork.pid = pid
        elif "failed" in message:
            fork = self._find_pending(message["failed"])
            if fork is not None:  # the machine had no room for a process, but may have room soon
                self._lose_fork(fork, to_text(message.get("why")), faults=0)

    def _find_pending(self, number: object) -> Optional[_PendingFork]:
        return self._pending.get(number) if type(number) is int else None

    def _note_import(self, message: Dict[str, Any]) -> None:
        seconds, error = message.get("seconds"), message.get("error")
        if len(self._report.preload) < len(self._settings.preload):
            self._report.preload.append(
                PreloadedModule(
                    to_text(message["imported"]),
                    seconds if type(seconds) is float and 0 <= seconds < float("inf") else 0.0,
                    None if error is None else to_text(error),
                )
            )

    def _become_ready(self, zygote: ZygoteProcess) -> None:
        zygote.ready_at = monotonic()
        self._awaiting_first = False
        failed_modules = [module for module in self._report.preload if module.error]
        why = "; ".join('"{}" could not be imported: {}'.format(each.module, each.error) for each in failed_modules)
        self._report = ZygoteReport(READY, why, self._report.preload)
        self._server.send_event(self.report)
        self._request_for_waiting()
        self._refill()

    def _fail(self, why: str, *, faults: int = 0) -> None:
        """End the zygote, and start another after a pause, unless too many have failed.

        `faults` is added to the faults of the zygotes in a row that were never ready. A zygote that was ready resets
        that number.
        """
        zygote = self._end_zygote()
        ready_at = None if zygote is None else zygote.ready_at
        lived_long = ready_at is not None and monotonic() - ready_at > _LONG_LIFE
        self._failures = 1 if lived_long else self._failures + 1
        self._faults = self._faults + faults if ready_at is None else 0
        if self._faults < _MOST_FAULTS:
            pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
            self._loop.call_later(pause, self._start_zygote)
            why += "; sessions start without it until there is another, which is tried in {:g} s".format(pause)
        else:
            why += "; sessions start without it"
        self._report = ZygoteReport(FAILED, why, self._report.preload)
        self._server.send_event(self.report)
        self._stop_waiting()

    def _end_zygote(self) -> Optional[ZygoteProcess]:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._loop.remove(zygote.control)
            zygote.control.close()
            process_tree.kill_tree([zygote.pid])
        for fork in list(self._pending.values()):
            self._end_pending(fork)
        return zygote

    def _stop_waiting(self) -> None:
        """Start the waiting sessions as new interpreters, unless the zygote is ready."""
        self._awaiting_first = False
        while self._waiting and self._report.state != READY:
            self._waiting.popleft()(None)

    # ---- forks

    def _request_forks(self, count: int, *, probe: bool = False) -> None:
        """Request forks, many with one packet if possible. The zygote needs one process in between for each packet."""
        most = 1 if self._starter.namespaced else MOST_DESCRIPTORS
        while count > 0 and self._zygote is not None:
            self._request_batch(self._zygote, min(count, most), probe=probe)
            count -= most

    def _request_batch(self, zygote: ZygoteProcess, count: int, *, probe: bool) -> None:
        forks: List[_PendingFork] = []
        ends: List[int] = []
        for _ in range(count):
            try:
                directory = directories.make(self._settings.work_dir)
            except OSError as error:
                close_descriptors(ends)
                self._fail("there is no room for the directory of a session: {}".format(error))
                return
            self._number += 1
            own, end_of_fork = control.make_pair()
            fork = self._pending[self._number] = _PendingFork(self._number, own, directory, probe, monotonic())
            self._loop.add(own, partial(self._read_fork, fork))
            self._loop.call_later(_CHECK_INTERVAL, partial(self._check_fork, fork, zygote))
            forks.append(fork)
            ends.append(end_of_fork.detach())
        requests = [{"fork": fork.number, "probe": probe, "root": fork.directory.root} for fork in forks]
        try:
            zygote.control.send({"forks": requests, "usual": self._usual}, ends)
        except OSError as error:
            for fork in forks:
                self._lose_fork(fork, str(error), faults=0)

    def _check_fork(self, fork: _PendingFork, zygote: ZygoteProcess) -> None:
        """Give up a fork that has not answered, or wait longer if it makes progress, but let no session wait."""
        if self._pending.get(fork.number) is not fork:
            return
        pids = [fork.pid] if fork.pid is not None else process_tree.list_descendants([zygote.pid])
        makes_progress = fork.progress.check(pids)
        age = monotonic() - fork.requested_at
        if age < _FORK_TIMEOUT or (makes_progress and age < _SLOW_FORK_TIMEOUT):
            self._loop.call_later(_CHECK_INTERVAL, partial(self._check_fork, fork, zygote))
            if age >= _FORK_TIMEOUT:
                self._mark_late(fork)
        elif fork.probe or fork.pid is None:
            self._fail("a fork of the zygote did not answer within {:g} s".format(age), faults=int(fork.probe))
        else:
            self._lose_fork(fork, "it did not answer")

    def _mark_late(self, fork: _PendingFork) -> None:
        """Start the session that waits for this fork as a new interpreter. For a probe, start all that wait."""
        if fork.probe:
            self._stop_waiting()
        elif not fork.late and self._waiting:
            self._waiting.popleft()(None)
        fork.late = True

    def _read_fork(self, fork: _PendingFork) -> None:
        try:
            packet = fork.control.receive()
        except (EOFError, InvalidPacket):
            self._lose_fork(fork, "it ended")
            return
        if packet is None:
            return
        close_descriptors(packet.descriptors)
        self.read_zygote()  # sets `fork.pid`
        zygote = self._zygote
        if zygote is None or self._pending.get(fork.number) is not fork:
            return
        if fork.probe:
            self._end_pending(fork)
            self._become_ready(zygote)
        elif fork.pid is not None and _read_parent(fork.pid) == self._pid:
            self._add_fork(fork, fork.pid)
        else:
            self._lose_fork(fork, "it is no child of the warden")

    def _add_fork(self, pending: _PendingFork, pid: int) -> None:
        """Give a fork that has answered to a waiting session, or keep it as a spare."""
        del self._pending[pending.number]
        self._loop.remove(pending.control)
        fork = Fork(pid, pending.control, pending.directory)
        if self._waiting:
            self._waiting.popleft()(fork)
        elif len(self._spares) < (self._settings.spares or 0):
            self._spares.append(fork)
            self._loop.add(fork.control, partial(self._lose_spare, fork))
        else:  # the session did not wait, and the pool is full
            self.discard(fork)
        self._refill_when_quiet()

    def _lose_fork(self, fork: _PendingFork, why: str, faults: int = 1) -> None:
        self._end_pending(fork)
        if fork.probe:
            self._fail("a fork of the zygote does not work: {}".format(why), faults=faults)
            return
        self._mark_late(fork)
        self._loop.call_later(_FIRST_PAUSE, self._refill)

    def _end_pending(self, fork: _PendingFork) -> None:
        self._pending.pop(fork.number, None)
        self._loop.remove(fork.control)
        fork.control.close()
        if fork.pid is not None and _read_parent(fork.pid) == self._pid:
            process_tree.kill_tree([fork.pid])
        directories.remove(fork.directory.root)

    def _lose_spare(self, fork: Fork) -> None:
        """Replace a spare that has ended or has sent something. A good spare sends nothing."""
        if fork in self._spares:
            self._spares.remove(fork)
            self._loop.remove(fork.control)
            self.discard(fork)
            self._loop.call_later(_FIRST_PAUSE, self._refill)

    def _request_for_waiting(self) -> None:
        if self._report.state == READY:
            expected_forks = sum(not fork.late for fork in self._pending.values())
            self._request_forks(len(self._waiting) - expected_forks)

    def _refill_when_quiet(self) -> None:
        """Refill the pool while no session is starting."""
        if self._refilling:
            return
        self._refilling = True

        def check() -> None:
            if monotonic() - self._taken_at < _QUIET:
                self._loop.call_later(_QUIET, check)
            else:
                self._refilling = False
                self._refill()

        self._loop.call_later(_QUIET, check)

    def _refill(self) -> None:
        """Request what is missing, once nothing is on its way."""
        if self._report.state == READY and not self._pending:
            self._request_forks((self._settings.spares or 0) - len(self._spares))


def _read_parent(pid: int) -> Optional[int]:
    stat = process_tree.read_stat(pid)
    return None if stat is None else stat.parent


def _is_running(pid: int) -> bool:
    """Return whether a process runs. User code may have killed or stopped it."""
    stat = process_tree.read_stat(pid)
    return stat is not None and stat.state in "SRD"
