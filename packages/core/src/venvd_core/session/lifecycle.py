"""The processes of one session: starting, watching and replacing them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from venvd_contract.errors import Cancelled, DeadlineExceeded, SessionLost, Unavailable, VenvdError
from venvd_contract.internal.messages import Exited
from venvd_contract.internal.slots import FREE
from venvd_core.link import Link
from venvd_core.session import process as processes
from venvd_core.session.host import Host, SessionSpec
from venvd_core.session.process import Process
from venvd_core.session.stream import CLOSED
from venvd_core.session.venvs import open_requests
from venvd_core.slots import SlotState
from venvd_core.tasks import Tasks
from venvd_core.wire import SessionLine

FORCE_AFTER = 1.0
"""Seconds after the grace in which the warden must have killed a process; after them, the server asks for it."""

_EXIT_TIMEOUT = 0.5
"""Seconds after the end of a stream in which the process must end; after them, the server has it killed."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_SHORT_LIFE = 1.0
_UP_POLL = 0.02
_UP_TIMEOUT = 60.0


class Events(Protocol):
    """The events that a lifecycle reports to its session."""

    def on_line(self, line: SessionLine, attachments: Sequence[bytes]) -> None:
        """Take a line of the process; a `GarbledError` ends the process."""

    def on_process(self, process: Process) -> None:
        """Send requests to a new process from now on."""

    def on_loss(self, why: str, *, started: bool) -> bool:
        """Answer the calls: the process ended or, if `started` is false, could not start. `why` is a sentence.

        Returns whether a call ran.
        """


class Lifecycle:
    """Keeps one process running for a session until the session ends.

    Attributes:
        process: the current process, which may still be starting; None if there is none.
        ready: whether the process takes requests.
        start_error: the reason of the last failed start; None after a successful one.
        restarts: the number of replaced processes.
    """

    def __init__(self, spec: SessionSpec, slot: int, host: Host, events: Events) -> None:
        self.process: Process | None = None
        self.ready = False
        self.start_error: str | None = None
        self.restarts = 0
        self._spec = spec
        self._slot = slot
        self._host = host
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._early_exits: list[Exited] = []
        self._end_reason: str | None = None
        self._resetting = False
        self._proven_link: Link | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._restart_now = asyncio.Event()
        self._up = asyncio.Event()
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None

    def start(self, process: Process | None) -> None:
        """Begin with `process`, which is up, or with a new one if it is None."""
        if process is not None:
            process.hand_over(self._spec.id, self._events.on_line, self._on_broken)
            self._begin(process)
        self._task = asyncio.create_task(self._run(process), name=f"session {self._spec.id}")

    @property
    def serving(self) -> bool:
        """Whether a process serves calls, or a new one soon will."""
        link = self._host.channel.link
        if link is not None and self.ready and self.read_slot().state != FREE:
            self._proven_link = link
        return link is not None and self._proven_link is link and self.start_error is None

    def read_slot(self) -> SlotState:
        return self._host.slots.read(self._slot)

    # ---- one process after the other

    async def _run(self, process: Process | None) -> None:
        pause = _FIRST_PAUSE
        while self._end_reason is None:
            link = await self._host.channel.wait_for_link()
            try:
                if process is None:
                    process = await self._start_process(link)
                    self._begin(process)
                died_young = await self._watch(process)
                process = None
            except VenvdError as error:
                self._report_failed_start(error.message)
                died_young = True
            if self._host.channel.link is not link:
                continue
            pause = min(2 * pause, _LONGEST_PAUSE) if died_young else _FIRST_PAUSE
            if died_young:
                self._restart_now.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._restart_now.wait(), pause)

    async def _start_process(self, link: Link) -> Process:
        self._host.slots.clear(self._slot)
        spec = self._spec
        process = await processes.start(
            link, self._events.on_line, self._on_broken,
            session=spec.id, slot=self._slot, limits=spec.limits, lease=spec.lease, compat=spec.compat, cwd=spec.cwd,
            env={**self._host.secrets.variables, **spec.env},
        )  # fmt: skip
        if self._host.answer_venvs is not None:
            process.venvs = await open_requests(link, spec.id, self._host.answer_venvs)
        return process

    async def _watch(self, process: Process) -> bool:
        """Wait for the end of a process; return whether it ended early without a running call."""
        started_at = time.monotonic()
        try:
            event = await process.wait()
            self.restarts += 1
            self._host.metrics.record_restart("reset" if self._resetting else event.reason)
            if self._resetting:
                self._resetting = False
                return False
            slot = self.read_slot()
            came_up = slot.state != FREE or slot.sequence > 0 or event.reason == "worker host"
            how = _describe_end(process, event)
            if came_up or self._end_reason is not None:
                why = self._end_reason or f"the session's process {how}"
                call_ran = self._events.on_loss(why, started=True)
            else:
                call_ran = self._report_failed_start(f"its process {how}")
            return not call_ran and (not came_up or time.monotonic() - started_at < _SHORT_LIFE)
        finally:
            self.ready = False
            self.process = None
            process.close()

    def _begin(self, process: Process) -> None:
        self.process = process
        self._up.clear()
        self.start_error = None
        self.ready = True
        for event in self._early_exits:
            if event.pid == process.pid:
                process.on_exited(event)
        self._early_exits = []
        if self._waiters:
            self._tasks.start(self._wait_for_up(process))
        self._events.on_process(process)

    async def _wait_for_up(self, process: Process) -> None:
        """Release the waiters once the process is up. Its slot also says so, if the event came too early."""
        while self.process is process and not self._up.is_set() and self.read_slot().state == FREE:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._up.wait(), _UP_POLL)
        if self.process is process:
            self._release_waiters(None)

    def _report_failed_start(self, why: str) -> bool:
        self.start_error = f'the session "{self._spec.id}" could not be started: {why}'
        self._release_waiters(Unavailable(self.start_error))
        return self._events.on_loss(self.start_error, started=False)

    # ---- events of the process

    def on_up(self, pid: int) -> None:
        """Handle the warden's event, which comes after the answer to the start."""
        if self.process is not None and self.process.pid == pid:
            self._up.set()

    def on_exited(self, event: Exited) -> None:
        """Handle the warden's event, which may come before the answer to the start."""
        if self.process is not None and self.process.pid == event.pid:
            self.process.on_exited(event)
        else:
            self._early_exits = [*self._early_exits[-3:], event]

    def _on_broken(self, why: str) -> None:
        """Kill the process of a broken stream, unless it ends by itself."""
        self.ready = False
        if self.process is None:
            return
        if why == CLOSED:
            self._loop.call_later(_EXIT_TIMEOUT, self.kill, self.process, why)
        else:
            self.kill(self.process, why)

    # ---- stopping

    def interrupt(self, sequence: int, reason: str, still_runs: Callable[[], bool]) -> None:
        """Interrupt the call `sequence`; kill the process if `still_runs()` some time after the grace."""
        if self.process is not None:
            self.process.interrupt(sequence, reason, self._host.grace)
            self._loop.call_later(self._host.grace + FORCE_AFTER, self._kill_if, self.process, still_runs)

    def _kill_if(self, process: Process, still_runs: Callable[[], bool]) -> None:
        if self.process is process and still_runs():
            self.kill(process, "did not stop")

    def kill(self, process: Process, why: str) -> None:
        """Kill `process` if it is the current one; `why` is a sentence without its subject."""
        # The warden kills by name, and a new session may have the name of an ended one.
        current = process is self.process and self._end_reason is None
        if current and not process.exited.done() and not process.link.gone.done():
            process.kill_reason = why
            self._tasks.start(process.kill(f"the session {why}"))

    # ---- restarting, ending

    async def wait_until_up(self) -> None:
        """Wait for the next start.

        Raises:
            Unavailable: it failed; the message says why.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(_UP_TIMEOUT):
                await waiter
        except TimeoutError:
            raise Unavailable(f'the session "{self._spec.id}" did not come up within {_UP_TIMEOUT:g} s') from None

    def _release_waiters(self, error: VenvdError | None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None) if error is None else waiter.set_exception(error)

    async def restart(self, why: str) -> None:
        """Replace the process; returns when the next one is up."""
        self.ready = False
        self._restart_now.set()
        up = asyncio.ensure_future(self.wait_until_up())
        if self.process is not None:
            self._resetting = True
            await self.process.kill(why)
        await up

    async def end(self, why: str) -> None:
        """End for good; returns when the whole process tree is gone."""
        self._end_reason = why
        self.ready = False
        link = self._host.channel.link
        if link is not None:
            await processes.kill(link, self._spec.id, why)

    def close(self, why: str) -> None:
        """Release everything at once; the warden ends the process when the server disconnects."""
        self._end_reason = why
        self._release_waiters(Unavailable(why))
        if self._task is not None:
            self._task.cancel()
        if self.process is not None:
            self.process.close()


def make_lost_call_error(stop_reason: str | None, why: str, grace: float) -> VenvdError:
    """Make the error of a call whose process ended during the call.

    Args:
        stop_reason: `timeout` or `cancelled` if the server was stopping the call.
        why: how the process ended; a sentence.
        grace: seconds that the call had to stop.
    """
    killed = f"did not stop within {grace:g} s, and its session was killed; its state is lost"
    if stop_reason == "timeout":
        return DeadlineExceeded(f"the call ran into its deadline, {killed}", state_lost=True)
    if stop_reason == "cancelled":
        return Cancelled(f"the call was interrupted, {killed}", state_lost=True)
    return SessionLost(f"{why}; its state is lost")


def _describe_end(process: Process, event: Exited) -> str:
    """Describe how a process ended: by the server's reason to kill it, except a closed channel, or by the warden's.

    The channel also closes if the warden kills the process for a limit, and the process tree may take longer than
    `_EXIT_TIMEOUT` to end. The warden's reason is then the right one.
    """
    warden_knows = process.kill_reason == CLOSED and event.reason != "kill"
    if process.kill_reason is None or warden_knows:
        return event.how
    return f"was ended because it {process.kill_reason}"
