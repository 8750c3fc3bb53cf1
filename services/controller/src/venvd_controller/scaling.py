"""Changes the number of replicas of backends while they run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, VenvdError
from venvd_contract.internal.messages import LoadReport
from venvd_contract.resources import Backend, BackendSpec, OperationInfo
from venvd_controller import replicas
from venvd_controller.backend_start import BackendStarter
from venvd_controller.backends import Backends, get_backend_row
from venvd_controller.database import Database
from venvd_controller.database.tables import LaunchRow
from venvd_controller.launch_rows import read_spec
from venvd_controller.operations import OperationKind, Operations, Run
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")

KIND = "backend.scale"
SETTLE_SECONDS = 60.0
"""How long fewer replicas must have been enough before one is removed, in seconds."""
_LOOK_SECONDS = 2.0
"""Seconds between two looks at the load of a backend."""
_USUAL_PART = 0.75
"""The share of a server's `maxSessions` above which another replica is added."""


class Scaler:
    """Adds and drains replicas: on request, and by the load of backends with `maxReplicas`."""

    def __init__(
        self, database: Database, engine: Engine, backends: Backends, operations: Operations, starter: BackendStarter
    ) -> None:
        self._database = database
        self._engine = engine
        self._backends = backends
        self._operations = operations
        self._starter = starter
        self._looked_at: dict[str, float] = {}
        self._idle_since: dict[str, float] = {}
        operations.register(KIND, OperationKind(self._await_replicas, _keep_row))

    def scale(self, name: str, count: int) -> tuple[Backend, OperationInfo]:
        """Give a backend `count` replicas while it runs, and queue an operation that waits for the new ones.

        Raises:
            NotFound: there is no such backend.
            InvalidRequest: the number is out of bounds.
            Conflict: a manifest or the load decides on the number, or the backend is being removed or started.
        """
        with self._database.write() as session:
            row = get_backend_row(session, name)
            spec = read_spec(row)
            if spec.maxReplicas is not None:
                raise Conflict(f'the load of the backend "{name}" decides on its replicas (maxReplicas)')
            if row.declared:
                raise Conflict(f'the manifest declares the backend "{name}": change replicas there')
            if not row.wanted:
                raise Conflict(f'the backend "{name}" is being removed')
            changed = replace(spec, name=name, replicas=count)
            replicas.check_replicas(changed, self._engine)
            row.spec = asdict(replace(spec, replicas=count))
            self._backends.scale_rows(session, row, count)
            operation = self._operations.submit(session, KIND, name, row.venv)
            return self._backends.show(session, row), operation

    def _await_replicas(self, name: str, run: Run) -> None:
        """Wait until the starts of all replicas have ended.

        Raises:
            Unavailable: a replica could not be started.
        """
        rows = self._starter.await_replicas(lambda: self._list_serving(name), run)
        if not rows[0].wanted:
            raise Cancelled(f'the backend "{name}" is being removed')
        self._backends.announce_change()  # so that the other replicas know the new addresses when the operation ends

    def _list_serving(self, name: str) -> list[LaunchRow]:
        return [row for row in self._backends.list_launches(name) if row.drain_until is None]

    # ---- for the reconciler ----

    def has_drained(self, row: LaunchRow) -> bool:
        """Return whether a draining replica may end: its time is over, or it has no sessions of clients and no call."""
        if row.drain_until is None:
            return False
        if time.time() >= row.drain_until:
            return True
        load = replicas.read_load(row, self._backends.tokens.derive_for_metrics(row))
        return load is not None and load.sessions <= 1 and load.busy == load.queued == 0

    def adjust_to_load(self) -> None:
        """Adjust the number of replicas of each backend with `maxReplicas` to its load."""
        groups = replicas.group_by_backend(self._backends.list_rows())
        following = [group for group in groups if group[0].wanted and group[0].spec.get("maxReplicas") is not None]
        known = {group[0].name for group in following}
        for noted in (self._looked_at, self._idle_since):
            for name in noted.keys() - known:
                del noted[name]
        for group in following:
            name = group[0].name
            if time.monotonic() - self._looked_at.get(name, -math.inf) >= _LOOK_SECONDS:
                self._looked_at[name] = time.monotonic()
                self._adjust(group)

    def _adjust(self, rows: Sequence[LaunchRow]) -> None:
        first = rows[0]
        serving = [row for row in rows if row.wanted and row.drain_until is None and not row.is_router]
        if any(row.state in {"pending", "starting"} for row in serving):
            return  # the load of the new ones is not visible yet
        loads = replicas.read_loads(serving, self._backends.tokens.derive_for_metrics(first))
        if len(loads) < len(serving):
            return
        count = choose_number(read_spec(first), loads)
        if count < len(serving):
            if time.monotonic() - self._idle_since.setdefault(first.name, time.monotonic()) < SETTLE_SECONDS:
                return
            count = len(serving) - 1  # remove one at a time; the next turn looks at the load of the others
        self._idle_since.pop(first.name, None)
        if count == len(serving):
            return
        log.info("%s: %d replicas for %d sessions", first.name, count, sum(load.sessions for load in loads.values()))
        with self._database.write() as session:
            row = session.get(LaunchRow, first.name)
            if row is not None and row.wanted:
                self._backends.scale_rows(session, row, count)


def choose_number(spec: BackendSpec, loads: Mapping[int, LoadReport]) -> int:
    """Choose the number of replicas for the load of the present ones.

    It is large enough for the sessions that clients created. If calls wait on every replica, it is at least one more
    than now.
    """
    per_replica = spec.sessionsPerReplica or max(1, math.floor(_USUAL_PART * min(load.most for load in loads.values())))
    created = sum(load.sessions - 1 for load in loads.values())
    count = max(1, math.ceil(created / per_replica))
    if all(load.queued for load in loads.values()):
        count = max(count, len(loads) + 1)
    return max(spec.minReplicas or 1, min(count, spec.maxReplicas or len(loads)))


def _keep_row(_session: Session, _name: str, _operation: str, _error: VenvdError) -> None:
    """Change nothing: each replica has the error of its own start."""
