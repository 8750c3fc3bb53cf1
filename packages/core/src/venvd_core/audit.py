"""Events of this backend for the controller's audit log: sessions that begin and end, refused tokens, ended keys.

The server holds no credential of the controller, so it keeps the events until the controller fetches them.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections import deque

from venvd_contract.errors import VenvdError
from venvd_contract.internal.audit import KEY_ENDED, REFUSED, ServerEvent, ServerEvents
from venvd_core.callers import Caller

MOST = 1000
"""Events that the server keeps; a new one then replaces the oldest."""
MOST_REFUSALS = 200
"""Kinds of refusals with an event of their own between two readings; all others share one event."""
_OTHERS = "others"
_LONGEST = 200


class AuditEvents:
    """The newest events. Each has a number, and a position names the server's life and a number in it."""

    def __init__(self) -> None:
        self._life = secrets.token_hex(6)
        self._newest = 0
        self._events: deque[ServerEvent] = deque(maxlen=MOST)
        self._refusals: dict[tuple[str | None, str, str], ServerEvent] = {}
        """The refusals since the last reading: equal ones are one event."""

    @property
    def position(self) -> str:
        """The position of the newest event."""
        return f"{self._life}-{self._newest}"

    def add_session(
        self, action: str, session: str | None, caller: Caller | None, error: VenvdError | None = None, detail: str = ""
    ) -> None:
        """Add the begin or end of a session, or a failed attempt at one."""
        self._add(
            ServerEvent(
                _now(),
                action,
                key=None if caller is None else caller.name,
                peer="" if caller is None else caller.peer,
                session=None if session is None else session[:_LONGEST],
                code=None if error is None else error.code,
                detail=(detail if error is None else error.message)[:_LONGEST] or None,
            )
        )

    def add_key_end(self, key: str, why: str) -> None:
        """Add that a key was revoked or expired."""
        self._add(ServerEvent(_now(), KEY_ENDED, key=key, detail=why[:_LONGEST]))

    def add_refusal(self, key: str | None, peer: str, error: VenvdError) -> None:
        """Count that a token was refused; `key` is the name of the token if the server knows it."""
        kind = (key, peer, error.code)
        if kind not in self._refusals and len(self._refusals) >= MOST_REFUSALS:
            kind = (None, _OTHERS, error.code)
        known = self._refusals.get(kind)
        if known is not None:
            known.count += 1
            return
        key, peer, code = kind
        detail = error.message[:_LONGEST]
        self._refusals[kind] = event = ServerEvent(_now(), REFUSED, key=key, peer=peer, code=code, detail=detail)
        self._add(event)

    def _add(self, event: ServerEvent) -> None:
        self._newest += 1
        self._events.append(event)

    def read(self, after: str) -> ServerEvents:
        """Return the events after a position, and drop those up to it. A position of another life returns all."""
        life, _, number = after.partition("-")
        seen = int(number) if life == self._life and number.isdecimal() and len(number) < len(str(1 << 64)) else 0
        while self._events and self._newest - len(self._events) < seen:
            self._events.popleft()
        self._refusals.clear()  # the controller may have read their counts
        return ServerEvents(self.position, max(0, self._newest - len(self._events) - seen), list(self._events))


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
