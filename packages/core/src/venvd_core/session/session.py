"""One session: its waiting calls, its running call, and its process."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from collections.abc import Callable, Iterator, Sequence

from venvd_contract.commands import SessionInfo
from venvd_contract.errors import Cancelled, DeadlineExceeded, SessionLost, Unavailable, VenvdError
from venvd_contract.internal.messages import Exited, Refused, Up
from venvd_contract.internal.slots import RUNNING
from venvd_core import arrays
from venvd_core.callers import Access
from venvd_core.calls import Call, Reply
from venvd_core.link import SessionEvent
from venvd_core.segments import Segments
from venvd_core.session.direct import DirectClient, DirectClients
from venvd_core.session.host import Host, SessionSpec
from venvd_core.session.lifecycle import FORCE_AFTER, Lifecycle, make_lost_call_error
from venvd_core.session.process import Process
from venvd_core.session.queue import Queue
from venvd_core.session.stream import largest_events, write_nowhere
from venvd_core.tasks import Tasks
from venvd_core.timer import DeadlineTimer
from venvd_core.wire import EVENTS, GarbledError, SessionLine, copy_data, error_of

_LINE = b'{"id":%d%b%b}\n'
_SLOT_POLL = 0.01
_TIMED_OUT_IN_QUEUE = "the deadline of the call passed while it waited for earlier calls"
_NOT_BEGUN = "the call was cancelled before it began"
_STRAY_BYTES = 1 << 20
"""The most bytes of events that belong to no call."""
_EVENT_BYTES = 24
"""Added to the size of each event's data."""


class Session:
    """Answers every call that `submit` accepts, in order, even if the process ends."""

    def __init__(self, spec: SessionSpec, slot: int, host: Host, process: Process | None = None) -> None:
        """Begin with `process`, or with a new one if it is None."""
        self.spec = spec
        self.slot = slot
        self.created = dt.datetime.now(dt.UTC)
        self.calls = 0
        self.file_transfers = 0
        """Running transfers of its files; a session with a transfer is not idle."""
        self._host = host
        self._metrics = host.metrics
        self._queue = Queue(spec.id, host.queued_bytes)
        self._waiting = self._queue.calls
        self._running: Call | None = None
        self._segments: Segments | None = None
        self._write: Callable[[bytes], None] = write_nowhere
        """Writes to the current process."""
        self._number = 0
        self._event_bytes = 0
        self._last_used = time.monotonic()
        self._tasks = Tasks()
        self._timer = DeadlineTimer(asyncio.get_running_loop(), self._on_due)
        self._lifecycle = Lifecycle(spec, slot, host, self)
        self._direct = DirectClients(spec, slot, host, self._lifecycle)
        self._lifecycle.start(process)
        self._expires_at = self._last_used + spec.lifetime if spec.lifetime else math.inf
        first_due = min(self._expires_at, self._last_used + (spec.idle_timeout or math.inf))
        if first_due < math.inf:
            self._timer.schedule(first_due)

    # ---- state

    @property
    def busy(self) -> bool:
        return self._running is not None or self._direct.find_running() is not None

    @property
    def serving(self) -> bool:
        """Whether calls are served."""
        return self._lifecycle.serving

    @property
    def start_error(self) -> str | None:
        """The reason of the last failed start; None after a successful one."""
        return self._lifecycle.start_error

    def info(self) -> SessionInfo:
        slot = self._direct.count_calls()
        return SessionInfo(
            id=self.spec.id,
            name=self.spec.name,
            state="busy" if self.busy else "idle" if self._lifecycle.ready else "starting",
            createdAt=self.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            limits=self.spec.limits,
            idleTimeout=self.spec.idle_timeout or None,
            queued=len(self._waiting),
            calls=self.calls + self._direct.calls,
            handles=slot.handles,
            restarts=self._lifecycle.restarts,
            lifetime=self.spec.lifetime or None,
            cwd=self.spec.cwd or None,
        )

    # ---- calls

    def submit(self, call: Call) -> None:
        """Run `call` when its turn comes; its `received_at`, `deadline`, `options` and `payload` are set.

        Raises:
            Busy: the queue is full; the message says which limit it has reached.
            Unavailable: there is no process, and none starts.
        """
        call.runner = self
        if self._running is None and self._lifecycle.ready and not self._waiting:
            self._send(call, call.received_at)
        else:
            self._check_process()
            self._queue.add(call)
        if call.deadline < self._timer.due:
            self._timer.schedule(call.deadline)

    def _check_process(self) -> None:
        """Check that there is a process, or that one starts."""
        if self._host.channel.link is None:
            raise Unavailable(f"{self._host.channel.why}; try again")
        if self._lifecycle.start_error is not None:
            raise Unavailable(self._lifecycle.start_error)

    def _send(self, call: Call, now: float) -> None:
        self._running = call
        self._event_bytes = 0
        self._number += 1
        call.segments = self._segments
        call.sent_at = now
        self._write(_LINE % (self._number, call.options, call.payload))
        if call.request.attachments:
            for part in call.request.attachments:
                self._write(part)

    def _send_next(self) -> None:
        while self._waiting and self._running is None and self._lifecycle.ready:
            call = self._queue.take()
            if not call.done():
                self._send(call, time.monotonic())

    def abandon(self, call: Call) -> None:
        """Stop a call whose client no longer waits, or remove it from the queue."""
        if call is self._running:
            self._stop(call, "cancelled")
            return
        if self._queue.remove(call):
            self._count(call, Cancelled.code, 0)

    def stop(self, call: Call) -> None:
        """Stop a call; its client gets an answer."""
        if call is self._running:
            self._stop(call, "cancelled")
        elif self._queue.remove(call):
            self._fail(call, Cancelled(_NOT_BEGUN))

    def stop_calls_of(self, key: Access) -> None:
        """Stop the running and waiting calls of an access key."""
        for call in [*self._waiting, *([] if self._running is None else [self._running])]:
            if call.request.caller is not None and call.request.caller.key is key:
                self.stop(call)

    def interrupt(self) -> None:
        """Stop the running call, if any."""
        if not self._direct.interrupt() and self._running is not None:
            self._stop(self._running, "cancelled")

    def _count(self, call: Call, outcome: str, size: int, error: VenvdError | None = None) -> None:
        if call.counted:
            return
        call.counted = True
        self.calls += 1
        self._last_used = time.monotonic()
        seconds = self._last_used - call.received_at
        self._metrics.record_call(call, outcome, seconds, size, self.spec.id, error)

    def _fail(self, call: Call, error: VenvdError) -> None:
        if call.done():
            error = Cancelled("the client went away")
        else:
            call.end(None, error)
        self._count(call, error.code, 0, error)

    async def attach(self, client: DirectClient) -> None:
        """Hand a client's connection to the process.

        Raises:
            Unimplemented, Busy: as `DirectClients.check_room`.
            Unavailable: there is no process, and none starts.
        """
        self._direct.check_room()
        if not self._lifecycle.ready:
            self._check_process()
            self._queue.check_room()
            await self._lifecycle.wait_until_up()
        await self._direct.add(client, self.info())

    # ---- lines of the process

    def on_line(self, line: SessionLine, attachments: Sequence[bytes]) -> None:
        call = self._running
        if line.event:
            self._take_event(call, line)
            return
        if call is None:
            raise GarbledError("a reply without a request")
        if line.id != self._number and not (line.id is None and line.error):
            raise GarbledError("a reply to another request")
        if not line.error and not line.result:
            raise GarbledError("a reply with neither result nor error")
        error = error_of(line) if line.error else None
        self._running = None
        if error is not None:
            withdrawn = call.stop_reason == "timeout" and error.code == Cancelled.code
            self._fail(call, DeadlineExceeded(_TIMED_OUT_IN_QUEUE) if withdrawn else error)
        elif call.ended:
            arrays.release_unclaimed(call, line.result)
            self._count(call, Cancelled.code, 0)
        else:
            self.calls += 1
            self._last_used = now = time.monotonic()
            reply = Reply(b"" + line.result, attachments)  # the cheapest copy
            size = reply.size if attachments else len(reply.result)
            call.end(reply)
            self._metrics.record_call(call, "ok", now - call.received_at, size, self.spec.id)
        if self._waiting:
            self._send_next()

    def _take_event(self, call: Call | None, line: SessionLine) -> None:
        event = EVENTS.get(bytes(line.event))
        if call is None or line.id != self._number or call.on_event is None or event is None:
            call = None
        self._event_bytes += memoryview(line.data).nbytes + _EVENT_BYTES
        most = _STRAY_BYTES if call is None else largest_events(self.spec.limits)
        if self._event_bytes > most:
            raise GarbledError("more events than its limits allow")
        if call is not None and call.on_event is not None and event is not None and not call.done():
            call.on_event(event, copy_data(event, line.data))

    # ---- deadlines, and stopping calls

    def _on_due(self, now: float) -> float | None:
        """End the calls whose deadline has passed, and an expired session; return the next time to check."""
        if self._expires_at <= now:
            self._host.on_expired(self.spec.id, f"its lifetime of {self.spec.lifetime:g} s is over")
            return None
        for call in [call for call in self._waiting if call.deadline <= now]:
            if call.done():
                continue  # its client cancelled it when it got the error of the call before
            self._queue.remove(call)
            self._fail(call, DeadlineExceeded(_TIMED_OUT_IN_QUEUE))
        running = self._running
        if running is not None and running.stop_reason is None and running.deadline <= now:
            self._stop(running, "timeout")
        idle_timeout = self.spec.idle_timeout
        if idle_timeout and not self._is_in_use(now) and self._last_used + idle_timeout <= now:
            self._host.on_expired(self.spec.id, f"it had no call for {idle_timeout:g} s")
            return None
        return min(self._next_times(now), default=None)

    def measure_idle(self) -> float:
        """Return the seconds since the last call; 0 during a call and while the session starts."""
        now = time.monotonic()
        return 0.0 if self._is_in_use(now) else now - self._last_used

    def _is_in_use(self, now: float) -> bool:
        """Return whether the session is starting or working; note when it was last used."""
        if self._waiting or self._running is not None:
            return True
        self._direct.count_calls()
        starting = not self._lifecycle.ready and self._lifecycle.start_error is None
        in_use = starting or self._direct.find_running() is not None or bool(self.file_transfers)
        self._last_used = now if in_use else max(self._last_used, self._direct.last_used)
        return in_use

    def _next_times(self, now: float) -> Iterator[float]:
        yield from (call.deadline for call in self._waiting)
        if self._running is not None and self._running.stop_reason is None:
            yield self._running.deadline
        if self.spec.lifetime:
            yield self._expires_at
        if self.spec.idle_timeout:
            yield (now if self._running is not None or self._waiting else self._last_used) + self.spec.idle_timeout

    def _stop(self, call: Call, reason: str) -> None:
        if call.stop_reason is None:
            call.stop_reason = reason
            self._host.slots.withdraw(self.slot, self._number)
            self._tasks.start(self._interrupt(call, reason))

    async def _interrupt(self, call: Call, reason: str) -> None:
        """Interrupt the running call as soon as the slot names it: the warden interrupts the call that the slot names.

        If the slot names neither this call nor an earlier one of a direct client, or the call does not stop, kill the
        process.
        """
        timeout = self._host.grace + FORCE_AFTER
        until = time.monotonic() + timeout
        while self._running is call and (process := self._lifecycle.process) is not None:
            slot = self._lifecycle.read_slot()
            if slot.state == RUNNING and slot.request == self._number and not slot.connection:
                self._lifecycle.interrupt(slot.sequence, reason, lambda: self._running is call)
                return
            if self._direct.find_running() is not None:
                if not call.done():  # it was withdrawn before it began, so the session's reply will be dropped
                    timed_out = reason == "timeout"
                    self._fail(call, DeadlineExceeded(_TIMED_OUT_IN_QUEUE) if timed_out else Cancelled(_NOT_BEGUN))
                until = time.monotonic() + timeout
            elif time.monotonic() >= until:
                self._lifecycle.kill(process, "did not stop")
                return
            await asyncio.sleep(_SLOT_POLL)

    # ---- events of the process

    def on_process(self, process: Process) -> None:
        self._direct.on_process()
        self._segments = process.segments
        self._write = process.stream.write
        self._event_bytes = 0
        self._last_used = time.monotonic()
        self._send_next()

    def on_loss(self, why: str, *, started: bool) -> bool:
        call_ran = self.busy
        self._direct.end_all(why)
        running, self._running = self._running, None
        waiting = self._queue.take_all()
        if running is not None:
            error = make_lost_call_error(running.stop_reason, why, self._host.grace) if started else Unavailable(why)
            self._fail(running, error)
        for call in waiting:
            before = f"{why}, before this call began; its state is lost"
            self._fail(call, SessionLost(before) if started else Unavailable(why))
        return call_ran

    def on_event(self, event: SessionEvent) -> None:
        """Handle an event of the warden."""
        if isinstance(event, Up):
            self._lifecycle.on_up(event.pid)
        elif isinstance(event, Exited):
            self._lifecycle.on_exited(event)
        elif isinstance(event, Refused):
            self._direct.on_refused(event.connection, event.why)

    # ---- restarting, ending

    async def wait_until_up(self) -> None:
        """Wait for the next start.

        Raises:
            Unavailable: it failed; the message says why.
        """
        await self._lifecycle.wait_until_up()

    async def reset(self) -> None:
        """Replace the process; running and waiting calls end with `session_lost`."""
        why = "the session was reset"
        self.on_loss(why, started=True)
        await self._lifecycle.restart(why)

    async def end(self, why: str) -> None:
        """End the session for good; returns when its whole process tree is gone."""
        self.on_loss(why, started=True)
        self._timer.cancel()
        await self._lifecycle.end(why)
        self.close(why)

    def close(self, why: str) -> None:
        """Release everything at once; the warden ends the process when the server disconnects."""
        self._timer.cancel()
        self._tasks.cancel()
        self.on_loss(why, started=True)
        self._direct.close()
        self._lifecycle.close(why)
