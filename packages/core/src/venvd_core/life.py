"""The processes behind one session: each is started, told of, and replaced when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from venvd_contract.commands import Limits
from venvd_contract.errors import Unavailable, VenvdError
from venvd_core import process as processes
from venvd_core.channel import CameUp, Channel, Exited, Link
from venvd_core.measures import Measures
from venvd_core.process import Process
from venvd_core.slots import FREE, Slots
from venvd_core.stream import Reader

_EXIT_WITHIN = 0.5
"""Seconds between the end of a stream and the news of its process, before that is taken for alive."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_SHORT_LIFE = 1.0
_LOOK_AGAIN = 0.02
_UP_WITHIN = 60.0


@dataclass(frozen=True)
class Spec:
    """What a session was asked to be; `idle_timeout` of 0 is never."""

    id: str
    limits: Limits
    name: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    idle_timeout: float = 0.0


class Ground(Protocol):
    """What processes of sessions stand on."""

    channel: Channel
    slots: Slots
    measures: Measures


class Owner(Reader, Protocol):
    """The session: it reads what its process says, and answers the calls that a process takes with it."""

    @property
    def busy(self) -> bool: ...

    def on_process(self) -> None:
        """A process takes requests from now on."""

    def on_loss(self, why: str) -> None:
        """The process ended, though it had come up, or the session does: `why` is a sentence."""

    def on_failed_start(self, why: str) -> None:
        """There is no process, and will be none for a while: `why` is a sentence."""


class Life:
    """Keeps one process there for a session until it is closed.

    Attributes:
        process: the one there is, which may not have come up yet.
        ready: it takes requests.
        trouble: why none can be started, while none can.
        restarts: how many were replaced.
    """

    def __init__(self, spec: Spec, slot: int, ground: Ground, owner: Owner) -> None:
        self.process: Process | None = None
        self.ready = False
        self.trouble: str | None = None
        self.restarts = 0
        self._spec = spec
        self._slot = slot
        self._ground = ground
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._early: list[Exited] = []
        self._ending: str | None = None
        self._resetting = False
        self._proven: Link | None = None
        self._starts: list[asyncio.Future[None]] = []
        self._hurry = asyncio.Event()
        self._up = asyncio.Event()
        self._side: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._live(), name=f"session {spec.id}")

    @property
    def up(self) -> bool:
        """Whether calls are served: by a process that is up, or soon by one that replaces it."""
        link = self._ground.channel.link
        if link is not None and self.ready and self._ground.slots.read(self._slot).state != FREE:
            self._proven = link
        return link is not None and self._proven is link and self.trouble is None

    # ---- what becomes of a process

    def broken(self, why: str) -> None:
        """Its stream ended, or it said what makes no sense: it is ended, unless it ends by itself."""
        self.ready = False
        process = self.process
        if process is None:
            return
        if why == "closed its channel":
            self._loop.call_later(_EXIT_WITHIN, self.end_process, process, why)
        else:
            self.end_process(process, why)

    def came_up(self, event: CameUp) -> None:
        """The warden says so, a moment after its answer to the start."""
        if self.process is not None and self.process.pid == event.pid:
            self._up.set()

    def exited(self, event: Exited) -> None:
        """News from the warden; it may come before its answer to the start has been read."""
        if self.process is not None and self.process.pid == event.pid:
            self.process.exited(event)
        else:
            self._early = [*self._early[-3:], event]

    def end_process(self, process: Process, why: str) -> None:
        """Have it killed, if it is still the one there is."""
        # The warden ends by name, and another session may have that name once this one is over.
        current = process is self.process and self._ending is None
        if current and not process.ended.done() and not process.link.gone.done():
            process.blame = why
            self._aside(process.kill(f"the session {why}"))

    async def _live(self) -> None:
        pause = _FIRST_PAUSE
        while self._ending is None:
            link = await self._ground.channel.linked()
            try:
                died_young = await self._one_life(link)
            except VenvdError as error:
                self._not_started(error.message)
                died_young = True
            if self._ground.channel.link is not link:
                continue
            pause = min(2 * pause, _LONGEST_PAUSE) if died_young else _FIRST_PAUSE
            if died_young:
                self._hurry.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), pause)

    async def _one_life(self, link: Link) -> bool:
        """Start a process and be there for it until it is gone; whether it died young, with no call to blame."""
        self._ground.slots.clear(self._slot)
        spec = self._spec
        process = await processes.start(
            link, self._owner, session=spec.id, slot=self._slot, limits=spec.limits, env=spec.env
        )
        born = time.monotonic()
        self._begin(process)
        try:
            event = await process.wait()
            self.restarts += 1
            self._ground.measures.restarted("reset" if self._resetting else event.reason)
            if self._resetting:
                self._resetting = False
                return False
            blameless = not self._owner.busy
            came_up = self._lost(event, process.how(event))
            return blameless and (not came_up or time.monotonic() - born < _SHORT_LIFE)
        finally:
            self.ready = False
            self.process = None
            process.close()

    def _begin(self, process: Process) -> None:
        self.process = process
        self._up.clear()
        self.trouble = None
        self.ready = True
        for event in self._early:
            if event.pid == process.pid:
                process.exited(event)
        self._early = []
        if self._starts:
            self._aside(self._tell_when_up(process))
        self._owner.on_process()

    async def _tell_when_up(self, process: Process) -> None:
        """For those who wait for a start; its slot tells as well, should the news have come too early."""
        while self.process is process and not self._up.is_set() and self._ground.slots.read(self._slot).state == FREE:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._up.wait(), _LOOK_AGAIN)
        if self.process is process:
            self._tell_starts(None)

    def _lost(self, event: Exited, how: str) -> bool:
        """Tell the session; whether the process had ever been able to take a call."""
        slot = self._ground.slots.read(self._slot)
        came_up = slot.state != FREE or slot.sequence > 0 or event.reason == "worker host"
        if came_up or self._ending is not None:
            self._owner.on_loss(self._ending or f"the session's process {how}")
        else:
            self._not_started(f"its process {how}")
        return came_up

    def _not_started(self, why: str) -> None:
        self.trouble = f'the session "{self._spec.id}" could not be started: {why}'
        self._tell_starts(Unavailable(self.trouble))
        self._owner.on_failed_start(self.trouble)

    # ---- starting afresh, ending

    async def started(self) -> None:
        """Wait for the next start.

        Raises:
            Unavailable: it failed; says why.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._starts.append(future)
        try:
            async with asyncio.timeout(_UP_WITHIN):
                await future
        except TimeoutError:
            raise Unavailable(f'the session "{self._spec.id}" did not come up within {_UP_WITHIN:g} s') from None

    def _tell_starts(self, error: VenvdError | None) -> None:
        waiting, self._starts = self._starts, []
        for future in waiting:
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)

    async def renew(self, why: str) -> None:
        """Replace the process; returns when the next one is up."""
        self.ready = False
        self._hurry.set()
        again = asyncio.ensure_future(self.started())
        if self.process is not None:
            self._resetting = True
            await self.process.kill(why)
        await again

    async def end(self, why: str) -> None:
        """End for good; returns when the whole tree is gone."""
        self._ending = why
        self.ready = False
        link = self._ground.channel.link
        if link is not None:
            await processes.kill(link, self._spec.id, why)

    def close(self, why: str) -> None:
        """Let go of everything at once; the warden ends the process when its server goes."""
        self._ending = why
        self._tell_starts(Unavailable(why))
        self._task.cancel()
        if self.process is not None:
            self.process.close()

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)
