"""The audit log: who changed what, when, from where and with what result, and who was refused."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from http import HTTPStatus
from typing import Any

from sqlalchemy import delete, func, select, update

from venvd_contract.access import AuditEntry
from venvd_contract.errors import BY_CODE, Internal
from venvd_contract.internal.audit import REFUSED, ServerEvents, classify_peer
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.audit_merging import AuditLine, Budget, MergedLines, Row
from venvd_controller.clock import format_time, now
from venvd_controller.database import Database
from venvd_controller.database.tables import AuditRow, LaunchRow

log = logging.getLogger("venvd.audit")

_FAILED_LINES = 60
"""Lines about failed requests of a key in a minute. Further lines are merged."""
_EVENT_LINES = 120
"""Lines about the events of a backend and a key in a minute. Further lines are merged."""
_PRUNE_SECONDS = 60.0
_OK = 200
_SERVER = "server"
_CONTROLLER = "controller"
"""The peers of lines about what a server or the controller does by itself."""
_MAX_TARGET = 400
_MAX_FIELDS = 4000
"""The most characters of a line's fields as JSON. If they have more, the line has only their names."""
_SECRET_MAPS = frozenset({"env", "secrets"})
"""Fields that are maps. The log has the names in them, but no values."""
_SECRETS = frozenset({"key", "token", "code"})
"""Fields whose values the log does not have, except booleans: whether there is a token is not a secret."""
_ADDRESS = re.compile(r"://[^\s\"']*")
"""Matches addresses with passwords up to the last @, because passwords may contain any character."""


class AuditLog:
    """The lines in the database: the newest `limit` of them.

    Attributes:
        refused: how many requests were refused since the start, by the code of the error and the kind of peer.
    """

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._merged = MergedLines()
        self._failed_lines = Budget(_FAILED_LINES)
        self._event_lines = Budget(_EVENT_LINES)
        self._lock = threading.Lock()
        self._pruned_at = 0.0
        self.refused: Counter[tuple[str, str]] = Counter()

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
        """Add a line about a request that changes something; see `AuditEntry`.

        Failed requests beyond the limit are only counted.
        """
        row = _create_row(key, peer, method, target, status, code)
        if _is_client_error(status) and not self._failed_lines.take(str(key)):
            self._merged.add(row)
            return
        line = AuditLine(row, changes)
        with self._database.write() as session:
            session.add(_create_audit_row(line))
        _log_line(logging.INFO, line)

    def count_refusal(self, key: str | None, peer: str, method: str, target: str, status: int, code: str) -> None:
        """Count a refusal. The next turn of the loop writes it, unless it wrote one of this peer in the last minute."""
        with self._lock:
            self.refused[code, classify_peer(peer)] += 1
        self._merged.add(_create_row(key, peer, method, target, status, code))

    def write_events(self, backend: str, before: str | None, events: ServerEvents, place: str | None = None) -> None:
        """Add the events of a backend's server, unless the log already has events beyond the position `before`.

        `place` names the backend in the lines, if the name differs from that of the row.
        """
        lines, refusals = self._create_lines(place or backend, events)
        position = update(LaunchRow).where(
            LaunchRow.name == backend, LaunchRow.audit_position.is_not_distinct_from(before)
        )
        with self._database.write() as session:
            moved = session.execute(position.values(audit_position=clean_text(events.position)[:80]))
            if moved.rowcount != 1:  # type: ignore[attr-defined]
                return
            session.add_all(_create_audit_row(line) for line in lines)
        for line in lines:
            _log_line(logging.INFO, line)
        for row, count in refusals:
            self._merged.add(row, count, place=row["target"])

    def write_end(self, backend: str, why: str) -> None:
        """Add a line that says that a backend ended by itself. The last events of its server may be missing."""
        detail = f"{clean_text(why)}; events of its last seconds may be missing"
        self.write(None, _CONTROLLER, "backend.end", f"/backends/{backend}", _OK, None, {"detail": detail})

    def _create_lines(self, backend: str, events: ServerEvents) -> tuple[list[AuditLine], list[tuple[Row, int]]]:
        """Return the lines of events, and the refusals among the events with their numbers."""
        place = f"/backends/{backend}"
        lines: list[AuditLine] = []
        refusals: list[tuple[Row, int]] = []
        merged = MergedLines()
        if events.dropped:
            row = _create_row(None, _SERVER, "audit.drop", place, _OK, None)
            lines.append(AuditLine(row, {"detail": f"{events.dropped} events were dropped"}, events.dropped))
        for event in events.events:
            target = place if event.session is None else f"{place}/sessions/{event.session}"
            status = _OK if event.code is None else BY_CODE.get(event.code, Internal).http_status
            row = _create_row(event.key, event.peer or _SERVER, event.action, target, status, event.code)
            row["time"] = _read_time(event.time) or row["time"]
            if event.action == REFUSED:
                refusals.append((row, event.count))
            elif self._event_lines.take(f"{backend} {event.key}"):
                lines.append(AuditLine(row, {"detail": clean_text(event.detail)} if event.detail else {}, event.count))
            else:
                merged.add(row, event.count)
        return [*lines, *merged.take_due()], refusals

    def list_all(self, after: int | None, limit: int, since: str | None, key: str | None) -> Sequence[AuditEntry]:
        """List the lines of a key, the newest first: older than `after`, but not older than `since`."""
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

    def write_merged(self, *, everything: bool = False) -> None:
        """Write the merged lines that are due; with `everything`, write all."""
        lines = self._merged.take_due(everything=everything)
        if not lines:
            return
        with self._database.write() as session:
            session.add_all(_create_audit_row(line) for line in lines)
        for line in lines:
            _log_line(logging.WARNING, line)

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
    """List the changed fields of a specification."""
    names = [each.name for each in fields(after)]
    changed = [name for name in names if getattr(after, name) != getattr(before, name)]
    shown = asdict(after)
    return describe_fields({name: shown[name] for name in changed})


def describe_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request in a form for the log: short, and without secrets."""
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
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
        return str(value)
    return _hide_passwords(value) if isinstance(value, str) else value


def _hide_field(name: str, value: Any) -> Any:
    if name in _SECRET_MAPS and isinstance(value, dict):
        return sorted(_hide_passwords(key) for key in value)
    if name in _SECRET_MAPS | _SECRETS and not (value is None or isinstance(value, bool)):
        return "…"
    return _hide_secrets(value)


def _hide_passwords(text: object) -> str:
    return _ADDRESS.sub(_hide_password, clean_text(str(text)))


def _hide_password(address: re.Match[str]) -> str:
    _, at, host = address[0].rpartition("@")
    return f"://…@{host}" if at else address[0]


def clean_text(text: str) -> str:
    """Return a text that every database accepts: without NUL and lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _create_row(key: str | None, peer: str, method: str, target: str, status: int, code: str | None) -> Row:
    return {
        "time": now(),
        "key": None if key is None else clean_text(key)[:80],
        "peer": clean_text(peer)[:64],
        "method": clean_text(method)[:20],
        "target": clean_text(target)[:_MAX_TARGET],
        "status": status,
        "code": None if code is None else clean_text(code)[:32],
    }


def _is_client_error(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def _read_time(text: str) -> str | None:
    """Return a server's time in the format of the log. Return None if it is not a time."""
    try:
        return format_time(datetime.fromisoformat(text))
    except ValueError:
        return None


def _create_audit_row(line: AuditLine) -> AuditRow:
    return AuditRow(**line.row, fields=line.fields, count=line.count)


def _log_line(level: int, line: AuditLine) -> None:
    fields = {**line.row, "fields": line.fields, "count": line.count}
    log.log(level, "%s %s", line.row["method"], line.row["target"], extra={"fields": fields})


def _to_resource(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        row.id, row.time, row.key, row.peer, row.method, row.target, row.status, row.code, row.fields, row.count
    )
