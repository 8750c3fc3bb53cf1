"""The fields of a session, and the parts of its backend that it uses."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Protocol

from venvd_contract.errors import Busy, Unimplemented
from venvd_contract.session_requests import Limits
from venvd_core.channel import Channel
from venvd_core.hangup import HangupWatcher
from venvd_core.metrics import Metrics
from venvd_core.secrets import Secrets
from venvd_core.session.queue import QueuedBytes
from venvd_core.session.venvs import AnswerVenvs
from venvd_core.settings import BackendSettings
from venvd_core.slots import Slots


@dataclass(frozen=True)
class SessionSpec:
    """The fields of `session.create`, and `lease` and `compat` of `Start`; a time of 0 is never."""

    id: str
    limits: Limits
    name: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    idle_timeout: float = 0.0
    lease: float = 0.0
    compat: bool = True
    lifetime: float = 0.0
    cwd: str = ""


class Admission:
    """Counts the direct clients of a backend and refuses those over its limits."""

    def __init__(self, settings: BackendSettings) -> None:
        self.offered = settings.attach
        self.timeout = settings.default_timeout
        self.cancel_on_disconnect = settings.cancel_on_disconnect
        self.numbers = itertools.count(1)
        self.hangups = HangupWatcher(asyncio.get_running_loop())
        self.count = 0
        self._most = settings.max_attached
        self._most_per_session = settings.max_attached_per_session

    def check(self, session: str, attached: int) -> None:
        """Check that one more client may attach to a session that has `attached`.

        Raises:
            Unimplemented: this backend takes no direct clients.
            Busy: the session or the backend has as many as it may.
        """
        if not self.offered:
            raise Unimplemented("this backend takes no direct clients (VENVD_ATTACH=0): call it without attaching")
        if attached >= self._most_per_session:
            raise Busy(f'the session "{session}" has {attached} direct clients, which is its limit')
        if self.count >= self._most:
            raise Busy(f"the backend has {self.count} direct clients, which is its limit")


class Host(Protocol):
    """The parts of a backend that its sessions use.

    Attributes:
        grace: seconds that an interrupted call has before its process is killed.
        queued_bytes: the limits of the sessions' queues, and the bytes in them.
        answer_venvs: answers requests of sessions about venvs; None if the backend manages none.
        secrets: the environment variables of each new process; the session's own variables override them.
    """

    channel: Channel
    slots: Slots
    metrics: Metrics
    admission: Admission
    grace: float
    queued_bytes: QueuedBytes
    answer_venvs: AnswerVenvs | None
    secrets: Secrets

    def on_expired(self, session_id: str, why: str) -> None:
        """End a session that has had no call for its idle timeout, or has reached the end of its lifetime."""
