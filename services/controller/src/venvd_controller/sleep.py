"""Backends with `idleStop`. Their replicas end while there are no calls, and start on a call to the router.

The state of a replica that sleeps is `idle`. Its launch serves until the router has no address of it and its calls have
ended. Then the row loses its record, and when the launch has ended, its column `launch`. All replicas of a backend
sleep, or none: while one serves, calls reach it and none waits that would wake the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from venvd_controller import replicas
from venvd_controller.backends import Backends
from venvd_controller.database import Database, after_commit
from venvd_controller.database.tables import LaunchRow

log = logging.getLogger("venvd.controller")


class Sleep:
    """Puts idle backends to sleep, and wakes those that calls wait for."""

    def __init__(self, database: Database, backends: Backends) -> None:
        self._database = database
        self._backends = backends

    def adjust(self) -> None:
        """Look at each backend that may sleep."""
        all_rows = self._backends.list_rows()
        beside = {row.replica_of for row in all_rows if row.stage is not None}
        for rows in replicas.group_by_backend(all_rows):
            first, router = rows[0], rows[-1]
            if not (first.wanted and first.spec.get("idleStop") is not None):
                continue
            if not (router.is_router and router.state == "running"):
                continue
            serving = [row for row in rows[:-1] if row.wanted and row.drain_until is None]
            states = {row.state for row in serving}
            if "idle" in states:
                self._wake(serving, router, others_serve=states != {"idle"})
            elif states == {"running"} and len(serving) == len(rows) - 1 and first.name not in beside:
                self._begin_if_idle(serving, router, first.spec["idleStop"])

    def _begin_if_idle(self, rows: list[LaunchRow], router: LaunchRow, seconds: float) -> None:
        token = self._backends.tokens.derive_for_metrics(router)
        passing = replicas.read_router_load(router, token)
        if passing is None or passing.calls:
            return
        loads = replicas.read_loads(rows, token)
        is_idle = len(loads) == len(rows) and all(load.idleSeconds >= seconds for load in loads.values())
        if is_idle and self.begin(rows):
            log.info("%s: no calls for %g s; its replicas end until there is one", rows[0].name, seconds)

    def _wake(self, rows: list[LaunchRow], router: LaunchRow, *, others_serve: bool) -> None:
        """Wake the replicas that sleep, if a call waits or if others of the backend do not sleep."""
        if not others_serve:
            passing = replicas.read_router_load(router, self._backends.tokens.derive_for_metrics(router))
            if passing is None or not passing.waiting:
                return
        if self._wake_unchanged(rows):
            log.info("%s: its replicas wake", rows[0].name)

    def may_end(self, row: LaunchRow) -> bool:
        """Return whether no call can reach a replica that goes to sleep, and its last calls have ended."""
        router = self._backends.list_launches(row.replica_of or row.name)[-1]
        if router.is_router and router.state == "running":
            passing = replicas.read_router_load(router, self._backends.tokens.derive_for_metrics(router))
            if passing is None or passing.reachable or passing.calls > passing.waiting:
                return False
        load = replicas.read_load(row, self._backends.tokens.derive_for_metrics(row))
        return load is None or load.idleSeconds > 0

    def begin(self, rows: Sequence[LaunchRow]) -> bool:
        """Let replicas sleep, unless one of them changed since `rows` were read. Return whether they do."""
        with self._database.write() as session:
            if any(self._backends.has_changed(session, row) for row in rows):
                return False
            for row in rows:
                session.get_one(LaunchRow, row.name).state = "idle"
            after_commit(session, self._backends.announce_change)
        return True

    def _wake_unchanged(self, rows: Sequence[LaunchRow]) -> bool:
        """Wake those replicas that sleep and did not change since `rows` were read. Return whether one wakes."""
        woken = False
        with self._database.write() as session:
            for seen in reversed(rows):  # the start of replica 0 waits for the others
                if seen.state == "idle" and not self._backends.has_changed(session, seen):
                    woken |= self._wake_row(session, session.get_one(LaunchRow, seen.name))
        return woken

    def _wake_row(self, session: Session, row: LaunchRow) -> bool:
        """Wake a replica. If its launch has not ended, it serves again.

        Return False while the launch ends; the replica can wake afterwards.
        """
        if row.record is not None:
            row.state = "running"
            after_commit(session, self._backends.announce_change)
        elif row.launch is None:
            self._backends.queue_start(session, row)
        return row.state != "idle"

    def begin_end(self, seen: LaunchRow) -> bool:
        """Take the record of a replica that sleeps, so that its launch cannot serve again. Return False if it woke.

        The column `launch` stays until `note_end`.
        """
        with self._database.write() as session:
            row = session.get(LaunchRow, seen.name)
            if row is None or (row.launch, row.state) != (seen.launch, "idle") or row.record is None:
                return False
            row.record = row.walls = None
        return True

    def note_end(self, seen: LaunchRow) -> None:
        """Note that the launch of a replica that sleeps has ended, so that the replica can wake."""
        with self._database.write() as session:
            row = session.get(LaunchRow, seen.name)
            if row is not None and row.launch == seen.launch:
                row.launch = None
