"""Updates: another launch replaces a launch of a backend. It starts beside the old one, and is ready before the change.

Each row of a replica, or of the router, is a place for a launch. In an update a second row, `NEXT`, starts a launch for
the place. Once that is ready, the rows exchange their launches. The second row, now `FORMER`, keeps the old launch
until it has drained. If an address cannot lead to another launch, the ready one only shows that the build starts. Then
the place itself restarts with that build.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, Unavailable, VenvdError
from venvd_contract.resources import Backend, OperationInfo
from venvd_controller import replicas
from venvd_controller.backend_start import BackendStarter
from venvd_controller.backends import KIND, UPDATE, Backends, get_backend_row
from venvd_controller.database import Database
from venvd_controller.database.tables import NEXT, LaunchRow
from venvd_controller.launch_rows import Newest, find_newest, read_spec
from venvd_controller.operations import OperationKind, Operations, Run
from venvd_controller.places import exchange_launches, make_next_row
from venvd_engines.engine import Engine, LaunchRecord

log = logging.getLogger("venvd.controller")

_STARTING = frozenset({"pending", "starting"})
_SERVING = frozenset({"running", "unhealthy"})
_FIRST_DELAY = 60.0
_MAX_DELAY = 3600.0
"""The most seconds between two tries of an update that fails. The delay doubles with each failure."""
_NEVER = 1e12
"""The Unix time of the next try of a cancelled update. An update to the next build begins at once."""
_POLL_SECONDS = 0.1
_SETTLED_SECONDS = 2.0
"""How long a former launch runs at least once its list of sessions is known: routers read the list by then."""


class Updates:
    """Replaces launches: outdated ones of backends with `update: rolling`, and those that a rollback takes back."""

    def __init__(
        self, database: Database, engine: Engine, backends: Backends, operations: Operations, starter: BackendStarter
    ) -> None:
        self._database = database
        self._engine = engine
        self._backends = backends
        self._operations = operations
        self._starter = starter
        operations.register(UPDATE, OperationKind(self._run_update, self._record_failure))

    # ---- which backends

    def update_next(self) -> None:
        """Queue the update of the next outdated backend of each venv with `update: rolling`, one at a time."""
        active = self._operations.list_active_targets(UPDATE)  # before the rows, which say why an ended update failed
        groups = replicas.group_by_backend(self._backends.list_rows())
        rolling = [rows for rows in groups if rows[0].wanted and rows[0].spec.get("update") == "rolling"]
        if not rolling:
            return
        with self._database.read() as session:
            newest = find_newest(session, self._engine)
        busy = {rows[0].venv for rows in rolling if rows[0].name in active or _is_starting(rows)}
        for rows in rolling:
            venv = rows[0].venv
            outdated = next((row for row in rows if _is_serving(row) and newest.replaces_by_itself(row)), None)
            self._forget_failures(rows, newest)
            if outdated is None or venv in busy:
                continue
            busy.add(venv)  # if the build does not start, the other backends of the venv keep their builds
            has_failed = outdated.failed_update == newest.identify(outdated)
            if not has_failed or time.time() >= outdated.update_at:
                log.info("%s: its build or its server is older than a start would give it", rows[0].name)
                self._queue(rows[0].name)

    def _forget_failures(self, rows: Sequence[LaunchRow], newest: Newest) -> None:
        """For launches that need no update any more, forget why updates failed."""
        for row in rows:
            if row.failed_update is not None and row.record is not None and not newest.replaces(row):
                self._backends.update(row.name, failed_update=None, update_error=None, update_failures=0)

    def _queue(self, name: str) -> None:
        with self._database.write() as session:
            row = session.get(LaunchRow, name)
            if row is not None and row.wanted and self._operations.find_active(session, UPDATE, name) is None:
                self._operations.submit(session, UPDATE, name, row.venv)

    def roll_back(self, name: str) -> tuple[Backend, OperationInfo]:
        """Queue an update to the builds of the venv that the replicas of a backend ran before.

        If not all of them serve, this restarts the backend with the older builds instead.

        Raises:
            NotFound: there is no such backend.
            Conflict: it is being removed, started or updated, or it ran no other build.
        """
        with self._database.write() as session:
            row = get_backend_row(session, name)
            rows = [row, *replicas.list_others(session, name)]
            active = self._operations.find_active(session, UPDATE, name)
            if active is not None:
                raise Conflict(f'the backend "{name}" is being updated: `venvd operation cancel {active.id}` ends that')
            if row.wanted and all(_is_serving(each) or each.drain_until is not None for each in rows):
                for each, key in _list_previous(rows):
                    each.wanted_key, each.update_error, each.failed_update = key, None, None
                operation = self._operations.submit(session, UPDATE, name, row.venv)
                return self._backends.show(session, row), operation
        return self._backends.restart(name, back=True)

    # ---- the operation

    def _run_update(self, name: str, run: Run) -> None:
        """Replace the launches of a backend that are due, one after the other.

        Raises:
            Cancelled: the backend is being removed.
            Unavailable: a successor did not start; the launches that were not replaced continue to run.
        """
        while (place := self._find_next_place(name)) is not None:
            run.check()
            row, following = place
            if row.proven_key is not None and row.state in _STARTING:
                self._restart(row, run)
            elif (following := following or self._add_next(row)) is not None:
                self._replace(row, following, run)

    def _find_next_place(self, name: str) -> tuple[LaunchRow, LaunchRow | None] | None:
        """Find the next launch that is due, and the row of its successor, if it has one.

        This removes the successors of all other launches.
        """
        with self._database.write() as session:
            first = session.get(LaunchRow, name)
            if first is None or not first.wanted:
                raise Cancelled(f'the backend "{name}" is being removed')
            rows = replicas.group_by_backend([first, *replicas.list_others(session, name)])[0]
            beside = {row.replica: row for row in replicas.list_beside(session, name, NEXT) if row.wanted}
            newest = find_newest(session, self._engine)
            chosen: tuple[LaunchRow, LaunchRow | None] | None = None
            for row in rows:
                following = beside.pop(row.replica, None)
                if chosen is None and self._is_due(row, newest):
                    chosen = row, following
                elif following is not None:
                    self._backends.remove_row(session, following)
            for following in beside.values():
                self._backends.remove_row(session, following)
        return chosen

    @staticmethod
    def _is_due(row: LaunchRow, newest: Newest) -> bool:
        if row.wanted and row.proven_key is not None and row.state in _STARTING:
            return True  # the restart of a place has begun
        if not _is_serving(row):
            return False
        if row.wanted_key is not None:
            return row.wanted_key != row.key
        return row.spec.get("update") == "rolling" and newest.replaces_by_itself(row)

    def _add_next(self, seen: LaunchRow) -> LaunchRow | None:
        """Add the row of a successor, unless the launch changed meanwhile."""
        with self._database.write() as session:
            row = session.get(LaunchRow, seen.name)
            if row is None or row.launch != seen.launch or not _is_serving(row):
                return None
            following = make_next_row(row)
            session.add(following)
        return following

    def _replace(self, row: LaunchRow, following: LaunchRow, run: Run) -> None:
        if following.state != "running" or following.record is None:
            run.log(f"{replicas.title(row)}: a launch starts beside the one that serves")
            try:
                self._starter.start(following, run)
            except Cancelled:
                raise
            except VenvdError as error:
                raise Unavailable(f"the new launch of {replicas.title(row)} is not ready: {error.message}") from None
            following = self._backends.get_row(following.name)
        record, former = LaunchRecord(**following.record or {}), LaunchRecord(**row.record or {})
        if not self._engine.inspect(record).running:
            raise Unavailable(f"the new launch of {replicas.title(row)} ended before it got an address")
        if self._leads_elsewhere(row):
            run.phase("switch")
            if self._backends.get_row(row.name).launch == row.launch:
                self._engine.take_address(record, former)
                self._switch(row, following)
        else:
            run.phase("idle")
            self._await_idle(row, run)
            if self._prepare_restart(row, following):
                self._restart(self._backends.get_row(row.name), run)
        run.log(f"{replicas.title(row)}: the new launch serves")

    def _leads_elsewhere(self, row: LaunchRow) -> bool:
        """Return whether clients can be led to another launch in this place, by its address or by a table."""
        if row.spec["type"] in self._engine.moving_types:
            return True
        launches = self._backends.list_launches(row.replica_of or row.name)
        return not row.is_router and (row.replica > 0 or launches[-1].is_router)

    def _switch(self, seen: LaunchRow, following: LaunchRow) -> None:
        """Put the launch of a successor into its place, and let the old one drain."""
        with self._database.write() as session:
            row, beside = session.get(LaunchRow, seen.name), session.get(LaunchRow, following.name)
            starts = self._operations.find_active(session, KIND, seen.name) is not None
            if row is None or beside is None or not beside.wanted or not _is_serving(row):
                return
            if row.launch != seen.launch or starts:
                return  # the place was restarted meanwhile; the next look removes the successor
            exchange_launches(row, beside)
            beside.drain_until = time.time() + replicas.get_drain_timeout(read_spec(row))
        self._backends.announce_change()

    def _await_idle(self, row: LaunchRow, run: Run) -> None:
        """Wait until a launch has no call, but not longer than it may drain."""
        end = time.monotonic() + replicas.get_drain_timeout(read_spec(row))
        token = self._backends.tokens.derive_for_metrics(row)
        while time.monotonic() < end and _has_calls(row, token):
            run.check()
            time.sleep(_POLL_SECONDS)

    def _prepare_restart(self, seen: LaunchRow, following: LaunchRow) -> bool:
        """Remove a successor that was ready, and let its place start with the same build."""
        with self._database.write() as session:
            row, beside = session.get(LaunchRow, seen.name), session.get(LaunchRow, following.name)
            if row is None or beside is None or row.launch != seen.launch or not _is_serving(row):
                return False
            row.state, row.proven_key, row.pinned_key = "pending", beside.key, beside.pinned_key
            self._backends.remove_row(session, beside)
        return True

    def _restart(self, row: LaunchRow, run: Run) -> None:
        self._starter.start(row, run)
        self._backends.update(row.name, wanted_key=None, failed_update=None, update_error=None, update_failures=0)
        self._backends.announce_change()

    def _record_failure(self, session: Session, name: str, operation: str, error: VenvdError) -> None:
        """Note why an update failed, remove the successor, and leave the old launch as it is."""
        first = session.get(LaunchRow, name)
        if first is None or not first.wanted:
            return
        newest = find_newest(session, self._engine)
        following = {row.replica: row for row in replicas.list_beside(session, name, NEXT) if row.wanted}
        for row in (first, *replicas.list_others(session, name)):
            beside = following.get(row.replica)
            if beside is not None:
                self._backends.remove_row(session, beside)
                row.update_error = error.message
                row.update_failures += 1
                delay = min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** (row.update_failures - 1))
                row.update_at = _NEVER if isinstance(error, Cancelled) else time.time() + delay
                row.failed_update = None if row.wanted_key else newest.identify(row)
            elif row.proven_key is not None and row.launched_by == operation and row.state == "starting":
                self._backends.note_failed_start(row, error)
            row.wanted_key = None

    # ---- for the reconciler

    def has_ended(self, row: LaunchRow) -> bool:
        """Return whether a launch beside a place may end: a drained former one, or a successor without an update."""
        if row.stage == NEXT:
            return row.replica_of not in self._operations.list_active_targets(UPDATE)
        if row.record is None or time.time() >= (row.drain_until or 0.0):
            return True
        token = self._backends.tokens.derive_for_metrics(row)
        load = None if row.is_router else replicas.read_load(row, token)
        sessions = [] if row.is_router else None if load is None else load.left
        if row.last_sessions is None:
            if sessions is not None:
                self._backends.update(row.name, last_sessions={"sessions": sessions, "at": time.time()})
                self._backends.announce_change()
            return False
        is_settled = time.time() >= row.last_sessions["at"] + _SETTLED_SECONDS
        return is_settled and not sessions and not _has_calls(row, token)


def _is_serving(row: LaunchRow) -> bool:
    return row.wanted and row.record is not None and row.state in _SERVING and row.drain_until is None


def _is_starting(rows: Sequence[LaunchRow]) -> bool:
    return any(row.state in _STARTING for row in rows)


def _list_previous(rows: Sequence[LaunchRow]) -> list[tuple[LaunchRow, str]]:
    keys = replicas.list_previous_builds(rows)
    return [(row, keys[row.name]) for row in rows if row.name in keys]


def _has_calls(row: LaunchRow, token: str) -> bool:
    """Return whether a launch answers and has calls."""
    if row.is_router:
        passing = replicas.read_router_load(row, token)
        return passing is not None and passing.calls > 0
    load = replicas.read_load(row, token)
    return load is not None and load.busy + load.queued > 0
