"""The sessions of a backend: `default` always exists, clients create and delete others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from typing import Any

import msgspec

from venvd_contract import commands
from venvd_contract.commands import SessionInfo
from venvd_contract.errors import Conflict, InvalidRequest, LimitExceeded, NotFound, Unavailable, VenvdError
from venvd_contract.internal import PROTOCOL
from venvd_contract.internal.audit import SESSION_ENDED
from venvd_contract.internal.environment import check_session
from venvd_contract.internal.limits import merge_limits
from venvd_contract.internal.messages import GetStats, Hello, LoadReport, Stats, ZygoteReport
from venvd_contract.internal.replica_table import DEFAULT
from venvd_contract.resources import check_name
from venvd_core.audit import AuditEvents
from venvd_core.callers import Access
from venvd_core.channel import Channel
from venvd_core.link import SessionEvent
from venvd_core.metrics import Gauges, Metrics
from venvd_core.replicas import Replicas
from venvd_core.secrets import Secrets
from venvd_core.session.host import Admission, SessionSpec
from venvd_core.session.queue import QueuedBytes
from venvd_core.session.session import Session
from venvd_core.session.standby import Standby, find_most
from venvd_core.session.venvs import AnswerVenvs
from venvd_core.settings import BackendSettings
from venvd_core.slots import Slots
from venvd_core.tasks import Tasks

_LONGEST_RELEASE = 100
_SHORTEST_TIME, _LONGEST_TIME = 0.01, 365 * 86400
_LONGEST_PATH = 4096
_REMEMBERED = 256

_stats = msgspec.json.Decoder(Stats)


class Pool:
    """Creates, finds and ends sessions; it is the `Host` of each."""

    def __init__(
        self, settings: BackendSettings, audit: AuditEvents, replicas: Replicas, secrets: Secrets | None = None
    ) -> None:
        self.secrets = secrets or Secrets(None)
        self._audit = audit
        self._replicas = replicas
        self.grace = settings.grace
        self.queued_bytes = QueuedBytes(settings)
        self.answer_venvs: AnswerVenvs | None = None
        self.metrics = Metrics()
        self.admission = Admission(settings)
        self.slots = Slots(settings.max_sessions + find_most(settings.standby))
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._ending: set[str] = set()
        """IDs of sessions whose processes are ending."""
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Why the latest sessions ended, by name."""
        self._memory: dict[str, int] = {}
        self._tasks = Tasks()
        hello = Hello(PROTOCOL, self.slots.count, settings.grace, settings.spin_microseconds)
        self.channel = Channel(settings.channel, hello, [self.slots.fd], self._on_event, used=settings.sidecar)
        self._standby = Standby(settings.standby, self._make_usual_spec(""), self)

    def start(self) -> None:
        self.channel.start()
        first = self._add(self._make_usual_spec(self._replicas.first))
        self._tasks.start(self._start_standby(first))

    def _make_usual_spec(self, session_id: str) -> SessionSpec:
        settings = self._settings
        return SessionSpec(session_id, settings.usual_limits, lease=settings.handle_lease, compat=settings.compat)

    async def _start_standby(self, first: Session) -> None:
        """Start the standby after the first session is up, so that the two do not slow each other down."""
        with contextlib.suppress(VenvdError):
            await first.wait_until_up()
        self._standby.start()

    async def close(self) -> None:
        for session in self._sessions.values():
            session.close("the server is closing")
        self._sessions.clear()
        self._standby.close()
        await self.channel.close()
        self._tasks.cancel()
        self.admission.hangups.close()
        self.slots.close()

    def _on_event(self, event: SessionEvent) -> None:
        session_id = self._standby.take_event(event)
        session = None if session_id is None else self._sessions.get(session_id)
        if session is not None:
            session.on_event(event)

    # ---- sessions

    def find(self, name: str | None) -> Session:
        """Return the session with this name or ID; None is `default`.

        Raises:
            NotFound: there is none; the message says how it ended, if the server knows.
            Moved: it belongs to another replica.
        """
        if name is None:
            name = DEFAULT
        session = self._sessions.get(name)
        if session is None:
            for session_id in self._replicas.list_ids(name):
                session = session or self._sessions.get(session_id)
        if session is None:
            self._replicas.check_left(name)
            raise self._not_found_error(name)
        return session

    def _not_found_error(self, name: str) -> NotFound:
        fates = [self._ended[each] for each in self._replicas.list_ids(name) if each in self._ended]
        known = f"it ended: {fates[-1]}" if fates else "create it, or use " + ", ".join(sorted(self._sessions)[:10])
        return NotFound(f'there is no session "{name[:80]}": {known}')

    def __len__(self) -> int:
        return len(self._sessions)

    def list(self) -> commands.SessionList:
        sessions = self._sessions.values()
        if self._replicas.replaced:  # clients get the first session of the newer launch
            return commands.SessionList([each.info() for each in sessions if each.spec.id != self._replicas.first])
        return commands.SessionList([session.info() for session in sessions])

    async def create(self, payload: dict[str, Any]) -> SessionInfo:
        """Make a session, and wait for its process.

        Raises:
            InvalidRequest: a field is wrong.
            Conflict: another session has the name.
            LimitExceeded: the backend has as many sessions as it may.
            Unavailable: no worker host is connected, or it could not start the process.
        """
        spec = self._spec(payload)
        self._check_link()
        if self._has_room():
            await self._standby.wait(spec)
        taken = next((each for each in (spec.id, spec.name) if each in self._sessions), None)
        if taken is not None:
            raise Conflict(f'there is a session "{taken}" already')
        session = self._add(spec)
        if session.serving:
            return session.info()  # it got a process of the standby
        try:
            await session.wait_until_up()
        except (VenvdError, asyncio.CancelledError):
            self._tasks.start(self._end(session, "it could not start"))
            raise
        return session.info()

    def _check_link(self) -> None:
        if self.channel.link is None:
            raise Unavailable(f"{self.channel.why}; try again")

    def _has_room(self) -> bool:
        """Whether there may be one more session."""
        return self.slots.taken - self._standby.slots < self._settings.max_sessions

    def _add(self, spec: SessionSpec) -> Session:
        slot, process = None, None
        if self._has_room():
            waiting = None if spec.id in self._ending else self._standby.take(spec)
            slot, process = (self.slots.take(), None) if waiting is None else waiting
        if slot is None:
            most = self._settings.max_sessions
            raise LimitExceeded(f"sessions: this backend has {most}, which is its limit")
        session = self._sessions[spec.id] = Session(spec, slot, self, process)
        return session

    def _spec(self, payload: dict[str, Any]) -> SessionSpec:
        name = payload["name"]
        idle = payload["idleTimeout"]
        if idle is None:
            idle = self._settings.session_idle_timeout
        lifetime = payload["lifetime"] or 0.0
        for field, seconds in (("idleTimeout", idle), ("lifetime", lifetime)):
            if seconds and not _SHORTEST_TIME <= seconds <= _LONGEST_TIME:
                raise InvalidRequest(f"{field} takes {_SHORTEST_TIME} to {_LONGEST_TIME} seconds, or 0 for never")
        if name is not None:
            check_name("session", name)
        limits = merge_limits(self._settings.usual_limits, payload["limits"], self._settings.max_session_limits)
        env = payload["env"] or {}
        check_session(env)
        lease, compat = self._settings.handle_lease, self._settings.compat
        cwd = _check_directory(payload["cwd"] or "")
        return SessionSpec(self._replicas.make_id(name), limits, name, env, idle, lease, compat, lifetime, cwd)

    async def delete(self, name: str) -> None:
        """End a session; returns when its whole process tree is gone."""
        session = self.find(name)
        if session.spec.id == self._replicas.first:
            raise InvalidRequest(f'the session "{session.spec.id}" cannot be deleted: reset it instead')
        await self._end(session, "the session was deleted")

    def stop_calls_of(self, key: Access) -> None:
        """Stop the calls of an access key in every session."""
        for session in self._sessions.values():
            session.stop_calls_of(key)

    async def reset(self, name: str) -> SessionInfo:
        """Give a session a new process."""
        session = self.find(name)
        self._check_link()
        await session.reset()
        return session.info()

    def on_expired(self, session_id: str, why: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            self._audit.add_session(SESSION_ENDED, session_id, None, detail=why)
            self._tasks.start(self._end(session, why))

    async def _end(self, session: Session, why: str) -> None:
        if self._sessions.get(session.spec.id) is not session:
            return
        del self._sessions[session.spec.id]
        self._ended[session.spec.id] = why
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._ending.add(session.spec.id)
        try:
            await session.end(why)
        finally:
            self._ending.discard(session.spec.id)
        self.slots.release(session.slot)

    # ---- readiness and metrics

    def find_unready_reason(self) -> str | None:
        """Return the reason why the default session takes no calls, or None if it takes them."""
        if self.channel.link is None:
            return self.channel.why
        default = self._sessions.get(self._replicas.first)
        if default is None:
            return "there is no default session"
        return None if default.serving else default.start_error or "the default session is starting"

    def measure_load(self) -> LoadReport:
        infos = [session.info() for session in self._sessions.values()]
        return LoadReport(
            sessions=len(infos),
            most=self._settings.max_sessions,
            busy=sum(info.state == "busy" for info in infos),
            queued=sum(info.queued for info in infos),
            idleSeconds=min((session.measure_idle() for session in self._sessions.values()), default=0.0),
            left=[each for each in self._sessions if each != self._replicas.first] if self._replicas.replaced else None,
        )

    def gauges(self) -> Gauges:
        infos = [session.info() for session in self._sessions.values()]
        states = {state: sum(info.state == state for info in infos) for state in ("idle", "busy", "starting")}
        link = self.channel.link
        zygote = (None if link is None else link.zygote) or ZygoteReport()
        return Gauges(
            in_flight=states["busy"],
            queued=sum(info.queued for info in infos),
            sessions=states,
            most_sessions=self._settings.max_sessions,
            handles=sum(info.handles for info in infos),
            attached=self.admission.count,
            ready=self.find_unready_reason() is None,
            memory=self._memory,
            zygote_ready=zygote.state == "ready",
            preloaded={each.module: each.error is None for each in zygote.preload},
            build=self._build(),
            walls=self._describe_walls(),
        )

    def _describe_walls(self) -> dict[str, str]:
        if self.channel.link is None:
            return {}
        walls = self.channel.link.hello.walls
        filtered = "off" if not walls.callFilter else "on" if walls.networkSockets else "on, without network sockets"
        return {
            "landlock": str(walls.landlock),
            "namespaces": "on" if walls.namespaces else "off",
            "call_filter": filtered,
            "kernel": walls.kernel[:_LONGEST_RELEASE],
        }

    def _build(self) -> dict[str, str]:
        # Prometheus knows backend, venv and engine as labels of the target
        hello = None if self.channel.link is None else self.channel.link.hello
        return {
            "version": _read_version(),
            "python": "" if hello is None else hello.python,
            "worker": "" if hello is None else hello.worker,
        }

    async def refresh(self) -> None:
        """Ask the warden how much memory is used; keep its last answer if it gives none."""
        link = self.channel.link
        if link is None:
            self._memory = {}
            return
        try:
            stats = _stats.decode(await link.request(GetStats()))
        except (VenvdError, msgspec.MsgspecError):
            return
        self._memory = {
            "sessions": sum(each.rssBytes for each in stats.sessions.values()),
            "warden": stats.warden.rssBytes,
            "zygote": stats.zygote.rssBytes,
        }


@functools.cache
def _read_version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 — only metrics need it

    return version("venvd-core")


def _check_directory(path: str) -> str:
    """Check the `cwd` of a session, and return it.

    Raises:
        InvalidRequest: no directory can have this path, or it leads out of the working directory.
    """
    if "\0" in path or len(path.encode("utf-8", "surrogatepass")) > _LONGEST_PATH or not path.isprintable():
        raise InvalidRequest(f"cwd takes the path of a directory: at most {_LONGEST_PATH} bytes, no control characters")
    if ".." in path.split("/"):
        raise InvalidRequest(
            f'cwd "{path[:80]}" has ".." as a part: name a directory below the working directory, or an absolute one'
        )
    return path
