"""Backends with `idleStop`. Their replicas end while there are no calls, and start on a call to the router."""

from __future__ import annotations

import logging

from venvd_controller import replicas
from venvd_controller.backends import Backends
from venvd_controller.database import Database
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
                self._put_to_sleep(serving, router, first.spec["idleStop"])

    def _put_to_sleep(self, rows: list[LaunchRow], router: LaunchRow, seconds: float) -> None:
        token = self._backends.tokens.derive_for_metrics(router)
        passing = replicas.read_router_load(router, token)
        if passing is None or passing.calls:
            return
        loads = replicas.read_loads(rows, token)
        is_idle = len(loads) == len(rows) and all(load.idleSeconds >= seconds for load in loads.values())
        if is_idle and self._backends.put_to_sleep(rows):
            log.info("%s: no calls for %g s; its replicas end until there is one", rows[0].name, seconds)

    def _wake(self, rows: list[LaunchRow], router: LaunchRow, *, others_serve: bool) -> None:
        """Wake the replicas that sleep, if a call waits or if others of the backend do not sleep."""
        if not others_serve:
            passing = replicas.read_router_load(router, self._backends.tokens.derive_for_metrics(router))
            if passing is None or not passing.waiting:
                return
        if self._backends.wake(rows):
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
