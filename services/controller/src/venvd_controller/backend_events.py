"""Fetches events from the servers of backends for the audit log: sessions, refused tokens and ended keys."""

from __future__ import annotations

import http.client
import logging
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.internal.audit import PATH, ServerEvents
from venvd_controller import probes
from venvd_controller.audit import AuditLog
from venvd_controller.backends import Backends
from venvd_controller.database.tables import LaunchRow
from venvd_engines.engine import LaunchRecord

log = logging.getLogger("venvd.controller")

_events = TypeAdapter(ServerEvents)


class BackendEvents:
    """Moves the events of servers into the audit log, each one once."""

    def __init__(self, backends: Backends, audit: AuditLog) -> None:
        self._backends = backends
        self._audit = audit
        self._failures: dict[str, str] = {}

    def collect(self, row: LaunchRow, record: LaunchRecord, position: str | None) -> None:
        """Fetch the events of a backend's server up to `position`, its newest event, unless the log has them."""
        if position is not None and position != row.audit_position:
            self._collect(row, record)

    def collect_last(self, row: LaunchRow, record: LaunchRecord) -> None:
        """Fetch the events of a server that is about to end, if it answers."""
        readiness = probes.probe_readiness(record)
        if readiness.answered:
            self.collect(row, record, readiness.audit_position)

    def collect_end(self, row: LaunchRow, why: str) -> None:
        """Note that a backend ended by itself. If its server still answers, fetch its last events before."""
        if row.record is not None:
            self.collect_last(row, LaunchRecord(**row.record))
        self._audit.write_end(row.place, why)

    def _collect(self, row: LaunchRow, record: LaunchRecord) -> None:
        try:
            self._audit.write_events(row.name, row.audit_position, self._fetch(row, record), row.place)
        except VenvdError as error:
            if self._failures.get(row.name) != error.message:
                log.warning("%s: its events are not in the audit log: %s", row.name, error.message)
            self._failures[row.name] = error.message
        else:
            self._failures.pop(row.name, None)

    def _fetch(self, row: LaunchRow, record: LaunchRecord) -> ServerEvents:
        path = f"{PATH}?after={quote(row.audit_position or '')}"
        status, body = probes.fetch(record, path, self._backends.tokens.derive_for_metrics(row))
        if status != http.client.OK:
            raise Unavailable(f"its server answered {status} to {PATH}")
        try:
            return _events.validate_json(body)
        except ValidationError as error:
            raise Unavailable(f"its server sent no events: {error.errors()[0]['msg']}") from None
