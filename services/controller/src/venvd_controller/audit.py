"""The audit log: who changed what, when, from where, and with what result; and who was refused."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import delete, func, select

from venvd_contract.access import AuditEntry
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import AuditRow

log = logging.getLogger("venvd.audit")

_REFUSAL_SECONDS = 60.0
"""Equal refusals within this time are one line."""
_MAX_REFUSED = 1000
"""Peers and keys whose refusals are counted apart at a time; the refusals of all others are one line."""
_OTHERS = "others"
_PRUNE_SECONDS = 60.0
_MAX_TARGET = 400
_MAX_FIELDS = 4000
"""Characters of a line's fields as JSON; if they have more, the line has their names alone."""
_SECRET_MAPS = frozenset({"env", "secrets"})
"""Fields of which the log has the names that they set, and no values."""
_SECRETS = frozenset({"key", "token", "code"})
"""Fields of which the log has nothing; whether there is a token is no secret."""
_ADDRESS = re.compile(r"://[^\s\"']*")
"""What may hold a password: it reaches the last @, since passwords may hold any character."""


@dataclass
class _Refusal:
    """Equal refusals of one peer."""

    row: dict[str, Any]
    count: int = 0
    written_at: float | None = None


class AuditLog:
    """Lines in the database, the newest `limit` of them.

    Attributes:
        refused: how many requests were refused since the start, by the code of the error.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._refusals: dict[tuple[str, str | None, int], _Refusal] = {}
        self._lock = threading.Lock()
        self._pruned_at = 0.0
        self.refused: Counter[str] = Counter()

    def write(
        self,
        key: str | None,
        peer: str,
        method: str,
        target: str,
        status: int,
        code: str | None,
        changes: dict[str, Any],
    ) -> None:
        """Add a line about a request that changes something; see `AuditEntry`."""
        row = _create_row(key, peer, method, target, status, code)
        with self._database.write() as session:
            session.add(AuditRow(**row, fields=changes, count=1))
        log.info("%s %s", method, target[:_MAX_TARGET], extra={"fields": {**row, "fields": changes}})

    def count_refusal(self, key: str | None, peer: str, method: str, target: str, status: int, code: str) -> None:
        """Count a refusal. The next turn of the loop writes it, unless it wrote one of this peer in the last minute."""
        with self._lock:
            self.refused[code] += 1
            place = (peer, key, status)
            if place not in self._refusals and len(self._refusals) >= _MAX_REFUSED:
                place, peer = (_OTHERS, None, status), _OTHERS
            refusal = self._refusals.setdefault(place, _Refusal({}))
            if refusal.count == 0:
                refusal.row = _create_row(key, peer, method, target, status, code)
            refusal.count += 1

    def list_all(self, after: int | None, limit: int, since: str | None, key: str | None) -> Sequence[AuditEntry]:
        """List the lines that are older than `after`, not older than `since`, and of this key; the newest first."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if after is not None:
            query = query.where(AuditRow.id < after)
        if since is not None:
            query = query.where(AuditRow.time >= since)
        if key is not None:
            query = query.where(AuditRow.key == key)
        with self._database.read() as session:
            return [_to_resource(row) for row in session.scalars(query)]

    # ---- chores ----

    def write_refusals(self, *, everything: bool = False) -> None:
        """Write the refusals that are due, or with `everything` all."""
        time_now = time.monotonic()
        with self._lock:
            for place, refusal in list(self._refusals.items()):
                fresh = refusal.written_at is not None and time_now - refusal.written_at < _REFUSAL_SECONDS
                if refusal.count == 0 and not fresh:
                    del self._refusals[place]
            due = [
                refusal
                for refusal in self._refusals.values()
                if refusal.count
                and (everything or refusal.written_at is None or time_now - refusal.written_at >= _REFUSAL_SECONDS)
            ]
            lines = [(refusal.row, refusal.count) for refusal in due]
            for refusal in due:
                refusal.count, refusal.written_at = 0, time_now
        if not lines:
            return
        with self._database.write() as session:
            session.add_all(AuditRow(**row, fields={}, count=count) for row, count in lines)
        for row, count in lines:
            log.warning("refused: %s", row["target"], extra={"fields": {**row, "count": count}})

    def prune(self) -> None:
        """Delete the oldest lines beyond the limit, once a minute."""
        if time.monotonic() < self._pruned_at + _PRUNE_SECONDS:
            return
        self._pruned_at = time.monotonic()
        with self._database.write() as session:
            newest = session.scalar(select(func.max(AuditRow.id)))
            if newest is not None:
                session.execute(delete(AuditRow).where(AuditRow.id <= newest - self._limit))


def list_changes(before: VenvSpec | BackendSpec, after: VenvSpec | BackendSpec) -> dict[str, Any]:
    """List the fields of a specification that are not as before."""
    names = [each.name for each in fields(after)]
    changed = [name for name in names if getattr(after, name) != getattr(before, name)]
    shown = asdict(after)
    return describe_fields({name: shown[name] for name in changed})


def describe_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request as the log may have them: short, and without secrets."""
    try:
        shown: dict[str, Any] = _hide_secrets({name[:80]: value for name, value in given.items()})
        text = json.dumps(shown, default=_hide_passwords)
    except RecursionError:
        text = None
    if text is None or len(text) > _MAX_FIELDS:
        return {_hide_passwords(name[:80]): "…" for name in list(given)[:40]}
    changes: dict[str, Any] = json.loads(text)
    return changes


def _hide_secrets(value: Any) -> Any:
    """Return a JSON value without secrets, at any depth."""
    if isinstance(value, dict):
        return {_hide_passwords(name): _hide_field(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hide_secrets(inner) for inner in value]
    return _hide_passwords(value) if isinstance(value, str) else value


def _hide_field(name: str, value: Any) -> Any:
    if name in _SECRET_MAPS and isinstance(value, dict):
        return sorted(_hide_passwords(key) for key in value)
    if name in _SECRET_MAPS | _SECRETS and not (value is None or isinstance(value, bool)):
        return "…"
    return _hide_secrets(value)


def _hide_passwords(text: object) -> str:
    return _ADDRESS.sub(_hide_password, str(text))


def _hide_password(address: re.Match[str]) -> str:
    _, at, host = address[0].rpartition("@")
    return f"://…@{host}" if at else address[0]


def _create_row(key: str | None, peer: str, method: str, target: str, status: int, code: str | None) -> dict[str, Any]:
    return {
        "time": now(),
        "key": key,
        "peer": peer[:64],
        "method": method[:20],
        "target": target.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:_MAX_TARGET],
        "status": status,
        "code": code,
    }


def _to_resource(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        row.id, row.time, row.key, row.peer, row.method, row.target, row.status, row.code, row.fields, row.count
    )
