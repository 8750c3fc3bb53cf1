"""The sessions of a backend: `default` is always there, others come and go."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

from venvd_contract import commands
from venvd_contract.commands import Limits, SessionInfo
from venvd_contract.errors import Conflict, InvalidRequest, LimitExceeded, NotFound, Unavailable, VenvdError
from venvd_contract.internal import PROTOCOL
from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.environment import check_session
from venvd_contract.internal.limits import merge_limits
from venvd_contract.internal.messages import Exited, GetStats, Hello, Refused, SegmentNews, Stats, Up, ZygoteReport
from venvd_contract.resources import check_name
from venvd_core.channel import Channel
from venvd_core.metrics import Gauges, Metrics
from venvd_core.session.host import Admission, SessionSpec
from venvd_core.session.session import Session
from venvd_core.settings import BackendSettings
from venvd_core.slots import Slots
from venvd_core.tasks import Tasks

DEFAULT = "default"

_REMEMBERED = 256


_stats = msgspec.json.Decoder(Stats)


@dataclass
class _Asked:
    """A checked `session.create`."""

    name: str | None
    limits: Limits
    env: dict[str, str]
    idle_timeout: float


class Pool:
    """Finds sessions, makes and ends them, and is what they stand on."""

    def __init__(self, settings: BackendSettings) -> None:
        self.grace = settings.grace
        self.queue_limit = settings.queue_limit
        self.metrics = Metrics()
        self.admission = Admission(settings)
        self.slots = Slots(settings.max_sessions)
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._memory: dict[str, int] = {}
        self._version = version("venvd-core")
        self._tasks = Tasks()
        hello = Hello(PROTOCOL, self.slots.count, settings.grace)
        self.channel = Channel(settings.channel, hello, [self.slots.fd], self)

    def start(self) -> None:
        self.channel.start()
        self._add(SessionSpec(DEFAULT, self._settings.session_limits))

    async def close(self) -> None:
        for session in self._sessions.values():
            session.close("the server is closing")
        self._sessions.clear()
        await self.channel.close()
        self._tasks.cancel()
        self.admission.hangups.close()
        self.slots.close()

    # ---- what the warden tells

    def came_up(self, event: Up) -> None:
        session = self._sessions.get(event.session)
        if session is not None:
            session.on_up(event.pid)

    def exited(self, event: Exited) -> None:
        session = self._sessions.get(event.session)
        if session is not None:
            session.on_exited(event)

    def shared(self, event: SegmentNews, descriptors: list[int]) -> None:
        session = self._sessions.get(event.session)
        segments = None if session is None else session.segments_of(event.pid)
        if segments is None:
            close_descriptors(descriptors)
        else:
            segments.on_segment_news(event, descriptors)

    def refused(self, event: Refused) -> None:
        session = self._sessions.get(event.session)
        if session is not None:
            session.on_refused(event.connection, event.why)

    # ---- sessions

    def find(self, name: str | None) -> Session:
        """The session `name`; null is `default`.

        Raises:
            NotFound: there is none; says what became of it where that is known.
        """
        try:
            return self._sessions[DEFAULT if name is None else name]
        except KeyError:
            raise self._missing(str(name)) from None

    def _missing(self, name: str) -> NotFound:
        fate = self._ended.get(name)
        known = f"it ended: {fate}" if fate else "create it, or use " + ", ".join(sorted(self._sessions)[:10])
        return NotFound(f'there is no session "{name[:80]}": {known}')

    def list(self) -> commands.SessionList:
        return commands.SessionList([session.info() for session in self._sessions.values()])

    async def create(self, payload: dict[str, Any]) -> SessionInfo:
        """Make a session, and wait for its process.

        Raises:
            InvalidRequest, Conflict, LimitExceeded, Unavailable.
        """
        asked = self._asked(payload)
        self._check_link()
        name = asked.name or f"s-{secrets.token_hex(6)}"
        if name in self._sessions:
            raise Conflict(f'there is a session "{name}" already')
        session = self._add(SessionSpec(name, asked.limits, asked.name, asked.env, asked.idle_timeout))
        try:
            await session.wait_until_up()
        except (VenvdError, asyncio.CancelledError):
            self._tasks.start(self._end(session, "it could not be started"))
            raise
        return session.info()

    def _check_link(self) -> None:
        if self.channel.link is None:
            raise Unavailable(f"{self.channel.why}; try again")

    def _add(self, spec: SessionSpec) -> Session:
        slot = self.slots.take()
        if slot is None:
            raise LimitExceeded(f"sessions: this backend has {self.slots.count}, and no more are allowed")
        session = self._sessions[spec.id] = Session(spec, slot, self)
        return session

    def _asked(self, payload: dict[str, Any]) -> _Asked:
        name = payload["name"]
        idle = payload["idleTimeout"]
        if idle is None:
            idle = self._settings.session_idle_timeout
        if not (math.isfinite(idle) and 0 <= idle <= 365 * 86400):
            raise InvalidRequest("idleTimeout takes seconds, 0 for never")
        if name is not None:
            check_name("session", name)
        limits = merge_limits(self._settings.session_limits, payload["limits"])
        env = payload["env"] or {}
        check_session(env)
        return _Asked(name, limits, env, idle)

    async def delete(self, name: str) -> None:
        """End a session; returns when its whole tree is gone."""
        if name == DEFAULT:
            raise InvalidRequest(f'the session "{DEFAULT}" is always there: reset it instead')
        await self._end(self.find(name), "the session was deleted")

    async def reset(self, name: str) -> SessionInfo:
        """Give a session a new process."""
        session = self.find(name)
        self._check_link()
        await session.reset()
        return session.info()

    def on_idle(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            self._tasks.start(self._end(session, f"it had no call for {session.spec.idle_timeout:g} s"))

    async def _end(self, session: Session, why: str) -> None:
        if self._sessions.get(session.spec.id) is not session:
            return
        del self._sessions[session.spec.id]
        self._ended[session.spec.id] = why
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        await session.end(why)
        self.slots.give_back(session.slot)

    # ---- what is so

    def trouble(self) -> str | None:
        """What keeps the default session from taking calls."""
        if self.channel.link is None:
            return self.channel.why
        default = self._sessions.get(DEFAULT)
        if default is None:
            return "there is no default session"
        return None if default.serving else default.start_error or "the default session is starting"

    def gauges(self) -> Gauges:
        infos = [session.info() for session in self._sessions.values()]
        states = {state: sum(info.state == state for info in infos) for state in ("idle", "busy", "starting")}
        link = self.channel.link
        zygote = (None if link is None else link.zygote) or ZygoteReport()
        return Gauges(
            in_flight=states["busy"],
            queued=sum(info.queued for info in infos),
            sessions=states,
            most_sessions=self.slots.count,
            handles=sum(info.handles for info in infos),
            attached=self.admission.count,
            ready=self.trouble() is None,
            memory=self._memory,
            zygote_ready=zygote.state == "ready",
            preloaded={each.module: each.error is None for each in zygote.preload},
            build=self._build(),
        )

    def _build(self) -> dict[str, str]:
        # no names of backend, venv and engine: those are labels of the target, and would be in each other's way
        hello = None if self.channel.link is None else self.channel.link.hello
        return {
            "version": self._version,
            "python": "" if hello is None else hello.python,
            "worker": "" if hello is None else hello.worker,
        }

    async def refresh(self) -> None:
        """Ask the warden how much memory is used; keeps the last answer where it gives none."""
        link = self.channel.link
        if link is None:
            self._memory = {}
            return
        try:
            found = _stats.decode((await link.request(GetStats())).result)
        except (VenvdError, msgspec.MsgspecError):
            return
        self._memory = {
            "sessions": sum(each.rssBytes for each in found.sessions.values()),
            "warden": found.warden.rssBytes,
            "zygote": found.zygote.rssBytes,
        }
