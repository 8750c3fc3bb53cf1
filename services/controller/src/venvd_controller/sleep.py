"""Backends with `idleStop`. Their replicas end while there are no calls, and start on a call to the router."""

from __future__ import annotations

import logging

from venvd_controller import replicas
from venvd_controller.backends import Backends
from venvd_controller.database import Database
from venvd_controller.database.tables import NEXT, LaunchRow

log = logging.getLogger("venvd.controller")


class Sleep:
    """Puts idle backends to sleep, and wakes those that calls wait for."""

    def __init__(self, database: Database, backends: Backends) -> None:
        self._database = database
        self._backends = backends

    def adjust(self) -> None:
        """Look at each backend that may sleep."""
        all_rows = self._backends.list_rows()
        updated = {row.replica_of for row in all_rows if row.stage == NEXT}
        for rows in replicas.group_by_backend(all_rows):
            may_sleep = rows[0].wanted and rows[0].spec.get("idleStop") is not None and rows[-1].is_router
            may_sleep = may_sleep and rows[0].name not in updated
            if may_sleep and rows[-1].state == "running":
                self._adjust(rows[:-1], rows[-1], rows[0].spec["idleStop"])

    def _adjust(self, rows: list[LaunchRow], router: LaunchRow, seconds: float) -> None:
        states = {row.state for row in rows}
        token = self._backends.tokens.derive_for_metrics(router)
        if states == {"running"}:
            passing = replicas.read_router_load(router, token)
            if passing is None or passing.calls:
                return
            loads = replicas.read_loads(rows, token)
            if len(loads) == len(rows) and all(load.idleSeconds >= seconds for load in loads.values()):
                log.info("%s: no calls for %g s; its replicas end until there is one", rows[0].name, seconds)
                for row in rows:
                    self._backends.update_if_unchanged(row, state="idle")
                self._backends.announce_change()
        elif states == {"idle"}:
            passing = replicas.read_router_load(router, token)
            if passing is not None and passing.waiting:
                log.info("%s: a call waits; its replicas start", rows[0].name)
                for row in reversed(rows):  # the start of replica 0 waits for the others
                    self._backends.start_if_unchanged(row)

    def may_end(self, row: LaunchRow) -> bool:
        """Return whether no call can reach a replica that goes to sleep, and its last calls have ended."""
        router = self._backends.list_launches(row.replica_of or row.name)[-1]
        if router.is_router and router.state == "running":
            passing = replicas.read_router_load(router, self._backends.tokens.derive_for_metrics(router))
            if passing is None or passing.reachable or passing.calls > passing.waiting:
                return False
        load = replicas.read_load(row, self._backends.tokens.derive_for_metrics(row))
        return load is None or load.idleSeconds > 0
