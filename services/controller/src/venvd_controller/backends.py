"""Backends: their desired state in the database, and their resources for the API."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, NotFound, VenvdError
from venvd_contract.internal.replica_table import ReplicaTable
from venvd_contract.resources import Backend, BackendSpec, OperationInfo, TokenRotation
from venvd_controller import backend_tokens, replicas, sockets
from venvd_controller.backend_tokens import BackendTokens
from venvd_controller.callers import Visible, match_names
from venvd_controller.database import Database, Reading, after_commit, get_row
from venvd_controller.database.tables import NEXT, LaunchRow, VenvRow, name_replica
from venvd_controller.home import Home
from venvd_controller.host_paths import HostPaths
from venvd_controller.launch_rows import (
    Newest,
    create_resource,
    find_newest,
    get_retry_delay,
    get_version,
    make_row,
    read_spec,
)
from venvd_controller.operations import Operations
from venvd_controller.secret_store import remove_secrets
from venvd_controller.specs import check_backend, choose_name
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine, LaunchRecord

log = logging.getLogger("venvd.controller")

KIND = "backend.start"
UPDATE = "backend.update"
_LIVE_FIELDS = ("update", "replicas", "minReplicas", "maxReplicas", "sessionsPerReplica", "drainTimeout")
"""The fields of the specification that the servers do not see."""


class Backends:
    """All backends.

    Attributes:
        tokens: the tokens of all backends.
        on_change: functions called after a token was rotated or a replica has an address.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        engine: Engine,
        operations: Operations,
        venvs: Venvs,
        host_paths: HostPaths,
    ) -> None:
        self.host_paths = host_paths
        self._database = database
        self._home = home
        self._engine = engine
        self._operations = operations
        self._venvs = venvs
        self._rows = Reading(
            database, lambda session: session.scalars(select(LaunchRow).order_by(LaunchRow.name)).all()
        )
        self.tokens = BackendTokens(home, self.list_rows)
        self.on_change: list[Callable[[], None]] = []

    def list_all(
        self, after: str | None = None, limit: int = 1000, visible: Visible | None = None
    ) -> Sequence[Backend]:
        query = select(LaunchRow).where(LaunchRow.name > (after or ""), LaunchRow.replica == 0)
        if visible is not None:
            names = match_names(LaunchRow.name, visible.backends)
            query = query.where(or_(match_names(LaunchRow.venv, visible.venvs), names))
        with self._database.read() as session:
            newest = find_newest(session, self._engine)
            rows = session.scalars(query.order_by(LaunchRow.name).limit(limit)).all()
            others = session.scalars(select(LaunchRow).where(LaunchRow.replica_of.in_(row.name for row in rows)))
            return [self._create_resource(each, newest) for each in replicas.group_by_backend([*rows, *others])]

    def list_rows(self) -> Sequence[LaunchRow]:
        return self._rows.get()

    def get(self, name: str) -> Backend:
        with self._database.read() as session:
            return self.show(session, get_backend_row(session, name))

    def list_states(self) -> list[tuple[str, str]]:
        """List the type and the state of each backend."""
        groups = replicas.group_by_backend(self.list_rows())
        return [(group[0].spec["type"], replicas.combine_state(group)) for group in groups]

    def list_replicas(self, name: str) -> list[LaunchRow]:
        """List the rows of all replicas of a backend, by number.

        Raises:
            NotFound: there is no such backend.
        """
        return [row for row in self.list_launches(name) if not row.is_router]

    def list_launches(self, name: str) -> list[LaunchRow]:
        """List all rows of a backend: those of its replicas by number, and then that of its router.

        Raises:
            NotFound: there is no such backend.
        """
        with self._database.read() as session:
            rows = [get_backend_row(session, name), *replicas.list_others(session, name)]
        return replicas.group_by_backend(rows)[0]

    def make_replica_table(self, row: LaunchRow) -> ReplicaTable:
        """Make the table of the replicas of the backend of a row, for its servers."""
        return replicas.make_table(self.list_rows(), row)

    def find_replica(self, name: str, number: int) -> LaunchRow:
        """Return the row of a replica.

        Raises:
            NotFound: there is no such backend or replica.
        """
        rows = self.list_replicas(name)
        row = next((row for row in rows if row.replica == number), None)
        if row is None:
            raise NotFound(f'the backend "{name}" has no replica {number}; it has {len(rows)}, counted from 0')
        return row

    def get_row(self, name: str) -> LaunchRow:
        """Read the row of a backend.

        Raises:
            NotFound: there is no such backend.
        """
        with self._database.read() as session:
            return _get_row(session, name)

    def get_launch_record(self, name: str) -> LaunchRecord:
        """Return the launch record of a running backend.

        Raises:
            Conflict: the backend does not run.
        """
        row = self.get_row(name)
        if row.record is None:
            reason = f": {row.error}" if row.error else ""
            raise Conflict(f'the backend "{name}" is {row.state} and does not run{reason}')
        return LaunchRecord(**row.record)

    def show(self, session: Session, row: LaunchRow) -> Backend:
        """Make the resource of a backend as the transaction of `session` sees it."""
        rows = [row, *replicas.list_others(session, row.name)]
        return self._create_resource(replicas.group_by_backend(rows)[0], find_newest(session, self._engine))

    def _create_resource(self, rows: Sequence[LaunchRow], newest: Newest) -> Backend:
        is_updating = rows[0].name in self._operations.list_active_targets(UPDATE)
        return create_resource(rows, newest, self._engine.name, self.tokens.derive(rows[0]), updating=is_updating)

    # ---- commands ----

    def start(
        self, spec: BackendSpec, *, declared: bool = False, visible: Visible | None = None
    ) -> tuple[Backend, OperationInfo]:
        """Add a backend and queue its start. It replaces a backend of the same name that failed and never ran, unless
        that is not `visible` to the caller.

        Raises:
            InvalidRequest: a field is wrong.
            Forbidden: the backend would be open to the network without a token.
            NotFound: there is no such venv.
            Conflict: the name is taken.
            Unimplemented: the engine has no such backends.
        """
        spec = check_backend(spec, self.host_paths)
        replicas.check_replicas(spec, self._engine)
        if not declared:  # if a declared backend fails later, the others of the manifest still start
            sockets.check_reachable(spec, self._engine)
        with self._database.write() as session:
            venv = self._get_venv(session, spec.venv)
            row = self._add_row(session, spec, declared=declared, visible=visible)
            self._adjust_replicas(session, row)
            operation = self.queue_start(session, row)
            if venv.operation is None:
                venv.operation = operation.id
            return self.show(session, row), operation

    def _get_venv(self, session: Session, name: str) -> VenvRow:
        """Read the row of a venv. If the venv `default` is missing, add it."""
        is_missing = name == "default" and session.get(VenvRow, name) is None
        return self._venvs.add_default(session) if is_missing else get_row(session, VenvRow, "venv", name)

    def _add_row(self, session: Session, spec: BackendSpec, *, declared: bool, visible: Visible | None) -> LaunchRow:
        rows = session.scalars(select(LaunchRow))
        taken = {row.name for row in rows if declared or not _is_replaceable(row, visible)}
        if spec.name is not None and spec.name in taken:
            raise Conflict(f'a backend "{spec.name}" exists already; stop it first, or choose another name')
        name = spec.name or choose_name(f"{spec.venv}-{spec.type}", taken)
        sockets.check_free(session, spec, name, self._home.id, self.host_paths.run_dir)
        failed = session.get(LaunchRow, name)
        if failed is not None:
            for each in (failed, *replicas.list_others(session, name), *replicas.list_beside(session, name)):
                self._operations.cancel_active(session, KIND, each.name)
                session.delete(each)
            remove_secrets(session, "backend", name)
            session.flush()
        row = make_row(name, spec, declared=declared)
        session.add(row)
        session.flush()
        after_commit(session, self.tokens.forget_owners)
        return row

    def _adjust_replicas(self, session: Session, row: LaunchRow) -> None:
        """Make the rows of the replicas of a backend that starts as a whole, and queue their starts. Others end."""
        spec = read_spec(row)
        others = {each.replica: each for each in replicas.list_others(session, row.name)}
        row.named_replicas = replicas.count_at_start(spec)
        first = replicas.ROUTER if self._is_routed(session, row) else 1
        for number in (number for number in range(first, row.named_replicas) if number != 0):
            self.start_replica(session, row, number, others.pop(number, None))
        for other in others.values():
            self.remove_row(session, other)

    def _is_routed(self, session: Session, row: LaunchRow) -> bool:
        return replicas.is_routed(read_spec(row), session.get(VenvRow, row.venv), self._engine)

    def start_replica(self, session: Session, row: LaunchRow, number: int, other: LaunchRow | None) -> None:
        """Queue the start of a replica of the backend of `row`, or of its router.

        Args:
            session: the session of the transaction.
            row: the row of replica 0.
            number: the number of the replica.
            other: the row of the replica, if it has one.

        Raises:
            Conflict: another backend has the replica's name, or the replica is being removed.
        """
        if other is None:
            name = name_replica(row.name, number)
            if session.get(LaunchRow, name) is not None:
                what = "the router" if number == replicas.ROUTER else f"replica {number}"
                raise Conflict(f'replicas: {what} would be "{name}", and a backend has that name')
            other = make_row(name, read_spec(row), declared=row.declared)
            other.replica_of, other.replica = row.name, number
            other.nonce, other.tokens, other.pinned_key = row.nonce, row.tokens, row.pinned_key
            session.add(other)
            session.flush()
        elif not other.wanted:
            raise Conflict(f"replicas: {replicas.title(other)} is being removed; try again")
        self._operations.cancel_active(session, KIND, other.name)
        spec = read_spec(row)
        other.venv, other.ports = row.venv, {}
        other.spec = asdict(replace(spec, ttl=None) if other.is_router else replicas.plan_replica(spec))
        other.retry_at, other.failures, other.error, other.drain_until = 0.0, 0, None, None
        self.queue_start(session, other)

    def queue_start(self, session: Session, row: LaunchRow) -> OperationInfo:
        """Queue the start of a launch."""
        operation = self._operations.submit(session, KIND, row.name, row.venv)
        row.state, row.operation = "pending", operation.id
        return operation

    def restart(self, name: str, *, back: bool = False) -> tuple[Backend, OperationInfo]:
        """Queue a restart of all replicas. URL and token stay the same; sessions are new.

        Args:
            name: the name of the backend.
            back: whether to take the builds of the venv that the replicas ran before the present ones.

        Raises:
            NotFound: there is no such backend.
            Conflict: the backend is being removed or started, or it ran no other build.
        """
        with self._database.write() as session:
            row = get_backend_row(session, name)
            if not row.wanted:
                raise Conflict(f'the backend "{name}" is being removed')
            active = self._operations.find_active(session, KIND, name)
            if active is not None:
                raise Conflict(f'the backend "{name}" is starting already (operation {active.id})')
            self.cancel_update(session, row)
            others = {each.replica: each for each in replicas.list_others(session, name)}
            pinned = replicas.list_previous_builds([row, *others.values()]) if back else {}
            if self._is_routed(session, row):
                self.start_replica(session, row, replicas.ROUTER, others.pop(replicas.ROUTER, None))
            row.named_replicas = replicas.choose_count(read_spec(row), list(others.values()))  # all sessions end
            for each in (*others.values(), row):
                if each.drain_until is not None:
                    self.remove_row(session, each)
                elif each.wanted and self._operations.find_active(session, KIND, each.name) is None:
                    each.retry_at, each.failures, each.error, each.pinned_key = 0.0, 0, None, pinned.get(each.name)
                    each.failed_update = each.update_error = each.proven_key = None
                    operation = self.queue_start(session, each)
            return self.show(session, row), operation

    def rotate_token(self, name: str, overlap: float) -> TokenRotation:
        """Give a backend a new token. Earlier ones end after `overlap` seconds.

        Raises:
            InvalidRequest: `overlap` is out of bounds.
            Conflict: the backend serves without a token, or too many of its tokens are valid.
        """
        with self._database.write() as session:
            row = get_backend_row(session, name)
            end = backend_tokens.rotate(row, overlap)
            for other in (*replicas.list_others(session, name), *replicas.list_beside(session, name)):
                other.tokens = row.tokens
            after_commit(session, self.tokens.forget_owners)
            after_commit(session, self.announce_change)
            return TokenRotation(name, str(self.tokens.derive(row)), end)

    def announce_change(self) -> None:
        """Call the functions that bring tokens and addresses to the servers."""
        for callback in self.on_change:
            callback()

    def declare(self, spec: BackendSpec) -> None:
        """Give an existing backend the (checked) specification of the manifest.

        A change of `_LIVE_FIELDS`, such as another number of replicas, leaves present replicas alone. Any other change
        restarts the backend.
        """
        with self._database.write() as session:
            row = get_backend_row(session, str(spec.name))
            before = read_spec(row)
            live = {field: getattr(spec, field) for field in _LIVE_FIELDS}
            changed = replace(before, **live) != spec
            if not changed and row.wanted and replicas.is_rescaled(before, spec):
                row.spec = asdict(spec)
                self.scale_rows(session, row, replicas.choose_count(spec, replicas.list_others(session, row.name)))
            self._get_venv(session, spec.venv)
            sockets.check_free(session, spec, row.name, self._home.id, self.host_paths.run_dir)
            row.declared, row.venv, row.spec = True, spec.venv, asdict(spec)
            after_commit(session, self.tokens.forget_owners)
            if changed and row.wanted:
                self._operations.cancel_active(session, KIND, row.name)
                self.cancel_update(session, row)
                row.ports, row.retry_at, row.failures, row.error = {}, 0.0, 0, None
                row.failed_update = row.update_error = row.proven_key = None
                self._adjust_replicas(session, row)
                self.queue_start(session, row)

    def scale_rows(self, session: Session, row: LaunchRow, count: int) -> None:
        """Give a backend `count` replicas: start the missing ones, and drain those with the highest numbers."""
        others = {each.replica: each for each in replicas.list_others(session, row.name)}
        for number in range(1, count):
            other = others.get(number)
            if other is not None and other.wanted:
                other.drain_until = None
            else:
                self.start_replica(session, row, number, other)
        end = time.time() + replicas.get_drain_timeout(read_spec(row))
        for number, other in others.items():
            if number >= count and other.wanted and other.drain_until is None:
                other.drain_until = end
                if other.state not in {"running", "unhealthy"}:
                    self.remove_row(session, other)
        after_commit(session, self.announce_change)

    def end_drain(self, name: str) -> None:
        """Mark a drained replica for removal, unless it is wanted again. Do the same for a launch beside a place."""
        with self._database.write() as session:
            row = session.get(LaunchRow, name)
            if row is not None and (row.drain_until is not None or row.stage is not None):
                self.remove_row(session, row)

    def request_removal(self, name: str) -> None:
        """Mark a backend for removal, and cancel its start. The reconciler removes it."""
        with self._database.write() as session:
            row = get_backend_row(session, name)
            self._operations.cancel_active(session, UPDATE, name)
            for each in (row, *replicas.list_others(session, name), *replicas.list_beside(session, name)):
                self.remove_row(session, each)

    def cancel_update(self, session: Session, row: LaunchRow) -> None:
        """End an update of the backend of a row before its launches start anew. Former launches continue to drain."""
        self._operations.cancel_active(session, UPDATE, row.name)
        for each in replicas.list_beside(session, row.name, NEXT):
            self.remove_row(session, each)

    def remove_row(self, session: Session, row: LaunchRow) -> None:
        """Mark one launch for removal."""
        row.wanted, row.state = False, "stopping"
        after_commit(session, self.tokens.forget_owners)
        self._operations.cancel_active(session, KIND, row.name)

    # ---- for starts and the reconciler ----

    def assign_user_id(self, name: str, available: Sequence[int]) -> int | None:
        """Return the user ID of a backend's worker host: its present one, else one that no other backend has.

        The backend keeps it until its row is deleted.

        Raises:
            Conflict: all user IDs are taken.
        """
        with self._database.write() as session:
            row = _get_row(session, name)
            taken = set(session.scalars(select(LaunchRow.user_id).where(LaunchRow.name != name)))
            if row.user_id not in available or row.user_id in taken:
                row.user_id = next((number for number in available if number not in taken), None)
                if available and row.user_id is None:
                    raise Conflict(f"all {len(available)} user IDs of this home have a backend: remove some backends")
            return row.user_id

    def update(self, name: str, **values: object) -> None:
        """Write columns of a backend. Write the state only while the backend is wanted."""
        with self._database.write() as session:
            if "state" in values:
                session.execute(_update(name).where(LaunchRow.wanted).values(state=values.pop("state")))
            if values:
                session.execute(_update(name).values(**values))

    def update_if_unchanged(self, seen: LaunchRow, **values: object) -> bool:
        """Write columns of a backend unless it changed since `seen` was read. Return whether they were written."""
        with self._database.write() as session:
            if self.has_changed(session, seen):
                return False
            session.execute(_update(seen.name).values(**values))
        return True

    def start_if_unchanged(self, seen: LaunchRow) -> None:
        """Queue a start of a backend unless it changed since `seen` was read."""
        with self._database.write() as session:
            if not self.has_changed(session, seen):
                self.queue_start(session, _get_row(session, seen.name))

    def has_changed(self, session: Session, seen: LaunchRow) -> bool:
        """Return whether a row changed since `seen` was read, or a start of its launch is queued or runs."""
        row = session.get(LaunchRow, seen.name)
        return (
            row is None
            or get_version(row) != get_version(seen)
            or self._operations.find_active(session, KIND, seen.name) is not None
        )

    def delete_row(self, name: str) -> None:
        """Delete the row of an ended launch. The row of a backend stays until all its other rows are gone."""
        with self._database.write() as session:
            row = session.get(LaunchRow, name)
            rest = [*replicas.list_others(session, name), *replicas.list_beside(session, name)]
            if row is not None and rest:
                row.record, row.launch = None, None
            elif row is not None:
                remove_secrets(session, "backend", name)
                session.delete(row)
                is_replica = row.replica_of is not None and row.stage is None and not row.is_router
                first = session.get(LaunchRow, row.replica_of) if is_replica else None
                if first is not None:
                    first.named_replicas = min(first.named_replicas, row.replica)
                    after_commit(session, self.announce_change)
                after_commit(session, self.tokens.forget_owners)

    def record_failure(self, session: Session, name: str, operation: str, error: VenvdError) -> None:
        """Note a failed start. The reconciler retries a backend that ran before, but not one that never ran."""
        row = session.get(LaunchRow, name)
        if row is not None and row.operation == operation and row.wanted:
            self.note_failed_start(row, error)

    @staticmethod
    def note_failed_start(row: LaunchRow, error: VenvdError) -> None:
        """Note that a launch could not be started."""
        row.state = "unhealthy" if row.started_at else "failed"
        row.error = error.message
        if not isinstance(error, Cancelled):
            row.failures += 1
            row.retry_at = time.time() + get_retry_delay(row.failures)


def _is_replaceable(row: LaunchRow, visible: Visible | None) -> bool:
    """Return whether a backend stays only to show its error. A new start of the same name replaces such a backend."""
    shown = visible is None or any(fnmatchcase(row.venv, name) for name in visible.venvs)
    return shown and row.wanted and row.state == "failed" and not row.declared


def _update(name: str) -> Any:
    return update(LaunchRow).where(LaunchRow.name == name)


def _get_row(session: Session, name: str) -> LaunchRow:
    return get_row(session, LaunchRow, "backend", name)


def get_backend_row(session: Session, name: str) -> LaunchRow:
    """Read the row of a backend. A name of a further replica is an error."""
    row = _get_row(session, name)
    if row.replica_of is not None:
        raise NotFound(f'"{name}" is replica {row.replica} of the backend "{row.replica_of}": name the backend')
    return row
