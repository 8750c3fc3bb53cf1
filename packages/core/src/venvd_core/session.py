"""One session: the calls that wait for it, the one that runs, and the process behind it, replaced when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from venvd_contract.commands import SessionInfo
from venvd_contract.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    SessionLost,
    Unavailable,
    VenvdError,
)
from venvd_core import arrays
from venvd_core.alarm import Alarm
from venvd_core.calls import Call, Reply
from venvd_core.channel import CameUp, Exited
from venvd_core.direct import FORCE_AFTER, Attachment, Clients, lost_call
from venvd_core.direct import Host as DirectHost
from venvd_core.life import Life, Spec
from venvd_core.limits import largest_reply
from venvd_core.process import Process
from venvd_core.segments import Segments
from venvd_core.slots import RUNNING, SlotState
from venvd_core.stream import nowhere
from venvd_core.wire import GarbledError, Line, error_of, parse_data

EVENTS = frozenset({"stdout", "stderr", "display", "progress"})

_LINE = b'{"id":%d%b%b}\n'
_AGAIN = 0.01
_TOO_LATE = "the time for the call ran out while it waited for those before it"
_NOT_BEGUN = "the call was cancelled before it began"
_STRAY_BYTES = 1 << 20
_EVENT_BYTES = 64
"""What an event counts for beside its data."""


class Host(DirectHost, Protocol):
    """What a session stands on."""

    queue_limit: int

    def idle(self, session: Session) -> None:
        """The session had no call for as long as it may."""


class Session:
    """Calls come in by `submit` and are answered in that order; whatever happens to the process, they are answered."""

    def __init__(self, spec: Spec, slot: int, host: Host) -> None:
        self.spec = spec
        self.slot = slot
        self.created = dt.datetime.now(dt.UTC)
        self.calls = 0
        self.couriers = 0
        """Under way with files of it, which is use, too."""
        self._host = host
        self._measures = host.measures
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Call] = deque()
        self._running: Call | None = None
        self._process: Process | None = None
        self._write: Callable[[bytes], None] = nowhere
        """What it writes to, as long as it is ready."""
        self._number = 0
        self._stray = 0
        self._used = time.monotonic()
        self._alarm = Alarm(self._loop, self._due)
        self._clients = Clients(spec, slot, host, lambda: self._life)
        self._life = Life(spec, slot, host, self)
        if spec.idle_timeout:
            self._alarm.want(self._used + spec.idle_timeout)

    # ---- what clients see

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        return self._running is not None or self._clients.running() is not None

    @property
    def attached(self) -> int:
        """Direct clients."""
        return len(self._clients)

    @property
    def slot_state(self) -> SlotState:
        return self._host.slots.read(self.slot)

    @property
    def up(self) -> bool:
        """Whether its calls are served."""
        return self._life.up

    @property
    def trouble(self) -> str | None:
        """Why it cannot be started, while it cannot."""
        return self._life.trouble

    def info(self) -> SessionInfo:
        self._clients.glance()
        return SessionInfo(
            id=self.spec.id,
            name=self.spec.name,
            state="busy" if self.busy else "idle" if self._life.ready else "starting",
            createdAt=self.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            limits=self.spec.limits,
            idleTimeout=self.spec.idle_timeout or None,
            queued=self.queued,
            calls=self.calls + self._clients.calls,
            handles=self.slot_state.handles,
            restarts=self._life.restarts,
        )

    # ---- calls

    def submit(self, call: Call) -> None:
        """Run `call` when its turn comes; its `began`, `deadline`, `terms` and `payload` are set.

        Raises:
            Busy: as many calls wait as may.
            Unavailable: there is no process, and it is not known when there will be one.
        """
        call.owner = self
        if self._running is None and self._life.ready and not self._queue:
            self._send(call, call.began)
        else:
            self._check()
            self._queue.append(call)
        if call.deadline < self._alarm.at:
            self._alarm.want(call.deadline)

    def _check(self) -> None:
        if self._host.channel.link is None:
            raise Unavailable(f"{self._host.channel.why}; try again")
        if self._life.trouble is not None:
            raise Unavailable(self._life.trouble)
        if len(self._queue) >= self._host.queue_limit:
            raise Busy(f'the session "{self.spec.id}" has {len(self._queue)} calls waiting, which is its limit')

    def _send(self, call: Call, now: float) -> None:
        self._running = call
        self._stray = 0
        self._number += 1
        call.process = self._process
        call.sent = now
        self._write(_LINE % (self._number, call.terms, call.payload))
        if call.request.attachments:
            for part in call.request.attachments:
                self._write(part)

    def _next(self) -> None:
        while self._queue and self._running is None and self._life.ready:
            call = self._queue.popleft()
            if not call.done():
                self._send(call, time.monotonic())

    def abandoned(self, call: Call) -> None:
        """Nobody waits for `call` any more: it is stopped, or never begun."""
        if call is self._running:
            self._stop(call, "cancelled")
            return
        with contextlib.suppress(ValueError):
            self._queue.remove(call)
            self._finished(call, Cancelled.code, 0)

    def stop(self, call: Call) -> None:
        """End `call`, for which somebody waits."""
        if call is self._running:
            self._stop(call, "cancelled")
        elif call in self._queue:
            self._queue.remove(call)
            self._fail(call, Cancelled(_NOT_BEGUN))

    def interrupt(self) -> None:
        """Stop the running call, if any."""
        if not self._clients.interrupt() and self._running is not None:
            self._stop(self._running, "cancelled")

    def _finished(self, call: Call, outcome: str, size: int, error: VenvdError | None = None) -> None:
        if call.counted:
            return
        call.counted = True
        self.calls += 1
        self._used = time.monotonic()
        seconds = self._used - call.began
        self._measures.finished(call, outcome, seconds, size, self.spec.id, error)

    def _fail(self, call: Call, error: VenvdError) -> None:
        if call.done():
            error = Cancelled("the client went away")
        else:
            call.end(None, error)
        self._finished(call, error.code, 0, error)

    async def attach(self, attachment: Attachment) -> None:
        """Hand a client's connection to the process.

        Raises:
            Unimplemented, Busy: no further direct client is taken.
            Unavailable: there is no process, and it is not known when there will be one.
        """
        self._clients.check()
        if not self._life.ready:
            self._check()
            await self._life.started()
        await self._clients.add(attachment, self.info())

    def refused(self, connection: int, why: str) -> None:
        """The process could not take a direct client's connection."""
        self._clients.refused(connection, why)

    # ---- what the process says

    def on_line(self, line: Line, attachments: Sequence[bytes]) -> None:
        call = self._running
        if line.event is not None:
            self._event(call, line)
            return
        if call is None:
            raise GarbledError("a reply that nothing asked for")
        if line.id != self._number and not (line.id is None and line.error is not None):
            raise GarbledError("a reply to another request")
        if line.error is None and not line.result:
            raise GarbledError("a reply with neither result nor error")
        self._running = None
        if line.error is not None:
            error = error_of(line)
            withdrawn = call.stop == "timeout" and error.code == Cancelled.code
            self._fail(call, DeadlineExceeded(_TOO_LATE) if withdrawn else error)
        elif call.over:
            arrays.abandoned(call, line.result)
            self._finished(call, Cancelled.code, 0)
        else:
            self.calls += 1
            self._used = now = time.monotonic()
            reply = Reply(b"" + line.result, attachments)  # the cheapest copy
            size = reply.size if attachments else len(reply.result)
            call.end(reply)
            self._measures.finished(call, "ok", now - call.began, size, self.spec.id)
        if self._queue:
            self._next()

    def _event(self, call: Call | None, line: Line) -> None:
        if call is None or line.id != self._number or call.on_event is None or line.event not in EVENTS:
            call = None
        size = memoryview(line.data).nbytes + _EVENT_BYTES
        self._stray += size
        most = _STRAY_BYTES if call is None else largest_reply(self.spec.limits)
        if self._stray > most:
            raise GarbledError("more events than its limits allow")
        if call is not None and call.on_event is not None and line.event is not None and not call.done():
            call.on_event(line.event, parse_data(line.data))

    # ---- stopping calls

    def _due(self, now: float) -> float | None:
        """End what ran out of time; the next time to look."""
        for call in [call for call in self._queue if call.deadline <= now]:
            if call.done():
                continue  # who was told of the one before let go of this one
            self._queue.remove(call)
            self._fail(call, DeadlineExceeded(_TOO_LATE))
        running = self._running
        if running is not None and running.stop is None and running.deadline <= now:
            self._stop(running, "timeout")
        idle = self.spec.idle_timeout
        if idle and not self._queue and running is None and self._last_used(now) + idle <= now:
            self._host.idle(self)
            return None
        return min(self._wanted(now), default=None)

    def _last_used(self, now: float) -> float:
        self._clients.glance()
        used = self._clients.running() is not None or self.couriers
        self._used = now if used else max(self._used, self._clients.used)
        return self._used

    def _wanted(self, now: float) -> Iterator[float]:
        yield from (call.deadline for call in self._queue)
        if self._running is not None and self._running.stop is None:
            yield self._running.deadline
        if self.spec.idle_timeout:
            yield (now if self._running is not None or self._queue else self._used) + self.spec.idle_timeout

    def _stop(self, call: Call, reason: str) -> None:
        if call.stop is None:
            call.stop = reason
            self._host.slots.withdraw(self.slot, self._number)
            self._interrupt(call, time.monotonic() + self._host.grace + FORCE_AFTER)

    def _interrupt(self, call: Call, until: float) -> None:
        """Tell the warden, as soon as the slot names the call: it stops a sequence, not whatever runs.

        Args:
            call: the running one.
            until: when the session is ended if the slot has not named the call, nor that of a direct client before it.
        """
        process = self._life.process
        if self._running is not call or process is None or call.stop is None:
            return
        now = time.monotonic()
        slot = self.slot_state
        if slot.state == RUNNING and slot.request == self._number and not slot.connection:
            process.interrupt(slot.sequence, call.stop, self._host.grace)
            self._loop.call_later(self._host.grace + FORCE_AFTER, self._force, call)
        elif self._clients.running() is not None:
            self._answer_waiting(call)
            self._loop.call_later(_AGAIN, self._interrupt, call, now + self._host.grace + FORCE_AFTER)
        elif now < until:
            self._loop.call_later(_AGAIN, self._interrupt, call, until)
        else:
            self._force(call)

    def _answer_waiting(self, call: Call) -> None:
        """A call that was withdrawn before it began; its reply, which still comes, is dropped."""
        if not call.done():
            self._fail(call, DeadlineExceeded(_TOO_LATE) if call.stop == "timeout" else Cancelled(_NOT_BEGUN))

    def _force(self, call: Call) -> None:
        if self._running is call and self._life.process is not None:
            self._life.end_process(self._life.process, "did not stop")

    # ---- the process behind it

    def on_process(self) -> None:
        self._clients.on_process()
        self._process = process = self._life.process
        self._write = nowhere if process is None or process.stream is None else process.stream.write
        self._stray = 0
        self._next()

    def on_broken(self, why: str) -> None:
        self._life.broken(why)

    def on_failed_start(self, why: str) -> None:
        self._clients.lost(why)
        running, self._running = self._running, None
        queue, self._queue = self._queue, deque()
        for call in (*([running] if running else ()), *queue):
            self._fail(call, Unavailable(why))

    def on_loss(self, why: str) -> None:
        """Answer every call that the process took with it."""
        self._clients.lost(why)
        running, self._running = self._running, None
        queue, self._queue = self._queue, deque()
        if running is not None:
            self._fail(running, self._lost_call(running, why))
        for call in queue:
            self._fail(call, SessionLost(f"{why}, before this call began; its state is lost"))

    def _lost_call(self, call: Call, why: str) -> VenvdError:
        return lost_call(call.stop, why, self._host.grace)

    # ---- starting afresh, ending

    async def started(self) -> None:
        """Wait for the next start.

        Raises:
            Unavailable: it failed; says why.
        """
        await self._life.started()

    def segments_of(self, pid: int) -> Segments | None:
        """What is known of the memory that the process `pid` shares."""
        process = self._life.process
        return process.segments if process is not None and process.pid == pid else None

    def came_up(self, event: CameUp) -> None:
        self._life.came_up(event)

    def exited(self, event: Exited) -> None:
        """News from the warden."""
        self._life.exited(event)

    async def reset(self) -> None:
        """Replace the process; what runs and what waits is answered `session_lost`."""
        why = "the session was reset"
        self.on_loss(why)
        await self._life.renew(why)

    async def end(self, why: str) -> None:
        """End the session for good; returns when its whole tree is gone."""
        self.on_loss(why)
        self._alarm.cancel()
        await self._life.end(why)
        self.close(why)

    def close(self, why: str) -> None:
        """Let go of everything at once; the warden ends the process when its server goes."""
        self._alarm.cancel()
        self.on_loss(why)
        self._clients.close()
        self._life.close(why)
