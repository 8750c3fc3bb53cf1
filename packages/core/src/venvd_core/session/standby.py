"""Processes that start before a client asks for a session, so that creating the session takes no start."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from dataclasses import dataclass

from venvd_contract.errors import NotFound, VenvdError
from venvd_contract.internal.messages import Assign, Up
from venvd_contract.internal.slots import FREE
from venvd_core.link import Link, SessionEvent
from venvd_core.session import process as processes
from venvd_core.session.host import Host, SessionSpec
from venvd_core.session.process import Process
from venvd_core.tasks import Tasks
from venvd_core.wire import GarbledError, SessionLine

_QUIET = 0.05
"""Seconds after a process was taken before the next one starts: a start would slow down the client's next calls."""
_CALM = 0.2
"""Seconds without a new session after which the standby keeps its usual number of processes again."""
_MOST = 8
"""The most processes that are kept or starting, while clients create sessions one after another."""
_LONGEST_WAIT = 1.0
"""Seconds that a session waits for a starting process. After them, it starts one of its own."""
_UP_TIMEOUT, _UP_POLL = 60.0, 0.01
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_NAME_BYTES = 8
_NOT_ASSIGNED = "could not be given its name"


@dataclass(eq=False)
class Waiting:
    """A process that waits for its session.

    Attributes:
        name: its name for the warden until it is assigned.
        slot: its slot, which the session takes over.
        up: done once the process takes requests; an error if it ends before.
    """

    name: str
    slot: int
    up: asyncio.Future[None]
    process: Process | None = None


def find_most(count: int) -> int:
    """Return the most processes of a standby that usually keeps `count`; each has a slot."""
    return max(count, _MOST) if count else 0


class Standby:
    """Keeps `count` processes for sessions like `usual`, and starts new ones while no session is being created.

    If clients create sessions faster, it keeps more processes as long as this lasts. They start together, which takes
    less processor time for each.

    A backend whose sessions manage venvs keeps none: each of their processes gets a socket that belongs to its session.
    """

    def __init__(self, count: int, usual: SessionSpec, host: Host) -> None:
        self._count = self._target = count
        self._usual = usual
        self._host = host
        self._all: dict[str, Waiting] = {}
        """Processes by the warden's name, from before their start until a session takes them or they end."""
        self._ready: deque[Waiting] = deque()
        self._assigned: dict[str, str] = {}
        """IDs of sessions by the warden's name of their process, until the warden has answered `assign`."""
        self._waiters: deque[asyncio.Future[None]] = deque()
        """Sessions that wait for a starting process."""
        self._taken_at = 0.0
        self._changed = asyncio.Event()
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to keep processes, once the warden has joined."""
        if self._count and self._host.answer_venvs is None:
            self._tasks.start(self._refill())

    def close(self) -> None:
        """Release all; the warden ends the processes when the server disconnects."""
        self._tasks.cancel()
        for waiting in list(self._all.values()):
            self._release(waiting)

    @property
    def slots(self) -> int:
        """The number of slots that the processes use."""
        return len(self._all)

    def _suits(self, spec: SessionSpec) -> bool:
        """Whether a session can have one of the processes."""
        usual = self._usual
        if spec.env or spec.cwd or self._host.secrets.variables:  # a process gets them when it starts
            return False
        return (spec.limits, spec.lease, spec.compat) == (usual.limits, usual.lease, usual.compat)

    async def wait(self, spec: SessionSpec) -> None:
        """Wait until `take` has a process for a session, if one is starting that no other session waits for."""
        if self._ready or not self._count or not self._suits(spec):
            return
        self._target = min(self._target + 1, find_most(self._count))
        self._taken_at = time.monotonic()
        self._changed.set()
        if len(self._all) <= len(self._waiters):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                await waiter
        except TimeoutError:
            pass
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _wake_waiter(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def take(self, spec: SessionSpec) -> tuple[int, Process] | None:
        """Take a process and its slot for a session; None if there is none that suits it."""
        if not self._suits(spec):
            return None
        while self._ready:
            waiting = self._ready.popleft()
            process = waiting.process
            if process is None or process.exited.done() or process.link.gone.done():
                continue
            del self._all[waiting.name]
            self._assigned[waiting.name] = spec.id
            self._tasks.start(self._assign(waiting.name, spec.id, process))
            self._taken_at = time.monotonic()
            self._changed.set()
            return waiting.slot, process
        return None

    async def _assign(self, name: str, session: str, process: Process) -> None:
        """Tell the warden the session's ID; later commands may use that ID."""
        try:
            # Delayed: no client waits for the answer, and the client with the new session needs the processor now.
            await process.link.request(Assign(name, session), delayed=True)
        except NotFound:
            pass  # the process has ended, and the warden has reported that with the old name
        except VenvdError:
            await processes.kill(process.link, name, f"the session {_NOT_ASSIGNED}")
        finally:
            self._assigned.pop(name, None)

    # ---- events of the warden

    def take_event(self, event: SessionEvent) -> str | None:
        """Handle an event of a waiting process and return None; else return the ID of the session of the event."""
        waiting = self._all.get(event.session)
        if waiting is None:
            return self._assigned.get(event.session, event.session)
        if isinstance(event, Up):
            if not waiting.up.done():
                waiting.up.set_result(None)
        else:
            self._release(waiting)
        return None

    # ---- refilling

    async def _refill(self) -> None:
        link = await self._host.channel.wait_for_link()
        pause = _FIRST_PAUSE
        while not link.gone.done():
            self._changed.clear()
            since_taken = time.monotonic() - self._taken_at
            hurried = self._target > self._count
            if hurried and since_taken >= _CALM:
                self._calm_down()
            elif len(self._all) >= self._target:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _CALM if hurried else None)
            elif not hurried and since_taken < _QUIET:
                await asyncio.sleep(_QUIET - since_taken)
            elif all(await asyncio.gather(*(self._add(link) for _ in range(self._target - len(self._all))))):
                pause = _FIRST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _calm_down(self) -> None:
        """Keep the usual number of processes from now on."""
        self._target = self._count
        while len(self._ready) > self._count:
            self._end(self._ready.pop())

    async def _add(self, link: Link) -> bool:
        """Start a process and wait until it is up; false if it could not be started."""
        slot = self._host.slots.take()
        if slot is None:
            return False
        name, usual = f"standby-{secrets.token_hex(_NAME_BYTES)}", self._usual
        waiting = self._all[name] = Waiting(name, slot, asyncio.get_running_loop().create_future())
        self._host.slots.clear(slot)
        try:
            waiting.process = await processes.start(
                link, _refuse_line, lambda _why: self._end(waiting),
                session=name, slot=slot, limits=usual.limits, env={}, lease=usual.lease, compat=usual.compat,
                standby=True,
            )  # fmt: skip
            async with asyncio.timeout(_UP_TIMEOUT):
                await waiting.up
                # the event may come before the process writes into its slot that it takes requests
                while (  # noqa: ASYNC110 — a slot is shared memory, and no event reports a change of it
                    self._all.get(name) is waiting and self._host.slots.read(slot).state == FREE
                ):
                    await asyncio.sleep(_UP_POLL)
        except (VenvdError, TimeoutError):
            self._end(waiting)
            return False
        if self._all.get(name) is not waiting:
            return False
        self._ready.append(waiting)
        self._wake_waiter()
        return True

    def _end(self, waiting: Waiting) -> None:
        """End an unusable process; its slot is free after its end."""
        if waiting.process is None:
            self._release(waiting)
        elif not waiting.process.link.gone.done():
            self._tasks.start(processes.kill(waiting.process.link, waiting.name, "the standby cannot be used"))

    def _release(self, waiting: Waiting) -> None:
        """Release a process that has ended or never started."""
        if self._all.pop(waiting.name, None) is None:
            return
        with contextlib.suppress(ValueError):
            self._ready.remove(waiting)
        if not waiting.up.done():
            waiting.up.set_exception(NotFound("the process ended before it was up"))
            waiting.up.exception()  # marks it as retrieved, as nothing may wait for it
        if waiting.process is not None:
            waiting.process.close()
        self._wake_waiter()
        self._host.slots.release(waiting.slot)
        self._changed.set()


def _refuse_line(_line: SessionLine, _attachments: object) -> None:
    raise GarbledError("a line without a request")
