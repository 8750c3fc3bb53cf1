"""Backends: desired state in the database, and resources for the API."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, NotFound, Unimplemented, VenvdError
from venvd_contract.resources import Backend, BackendSpec, OperationInfo, TokenRotation
from venvd_controller import backend_tokens, replicas
from venvd_controller.backend_rows import Newest, create_resource, find_newest, make_row, read_spec
from venvd_controller.backend_tokens import BackendTokens
from venvd_controller.callers import Visible, match_names
from venvd_controller.database import Database, Reading, after_commit, get_row
from venvd_controller.database.tables import BackendRow, StoppedRow, VenvRow
from venvd_controller.home import Home
from venvd_controller.host_paths import HostPaths
from venvd_controller.operations import Operations
from venvd_controller.secret_store import remove_secrets
from venvd_controller.specs import check_backend, choose_name, choose_socket_name
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine, LaunchRecord

log = logging.getLogger("venvd.controller")

KIND = "backend.start"
_FIRST_DELAY = 2.0
_MAX_DELAY = 60.0
"""Seconds between two starts of a backend that fails; the delay doubles with each failure."""


class Backends:
    """All backends.

    Attributes:
        tokens: those of all backends.
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
            database, lambda session: session.scalars(select(BackendRow).order_by(BackendRow.name)).all()
        )
        self.tokens = BackendTokens(home, self.list_rows)
        self.on_change: list[Callable[[], None]] = []

    def list_all(
        self, after: str | None = None, limit: int = 1000, visible: Visible | None = None
    ) -> Sequence[Backend]:
        query = select(BackendRow).where(BackendRow.name > (after or ""), BackendRow.replica == 0)
        if visible is not None:
            names = match_names(BackendRow.name, visible.backends)
            query = query.where(or_(match_names(BackendRow.venv, visible.venvs), names))
        with self._database.read() as session:
            newest = find_newest(session, self._engine)
            rows = session.scalars(query.order_by(BackendRow.name).limit(limit))
            return [self._to_resource(session, row, newest) for row in rows]

    def list_rows(self) -> Sequence[BackendRow]:
        return self._rows.get()

    def get(self, name: str) -> Backend:
        with self._database.read() as session:
            return self._to_resource(session, _get_backend_row(session, name), find_newest(session, self._engine))

    def list_states(self) -> list[tuple[str, str]]:
        """List type and state of each backend."""
        groups = replicas.group_by_backend(self.list_rows())
        return [(group[0].spec["type"], replicas.combine_state(group)) for group in groups]

    def list_replicas(self, name: str) -> list[BackendRow]:
        """List the rows of all replicas of a backend, by number.

        Raises:
            NotFound: there is no such backend.
        """
        with self._database.read() as session:
            return [_get_backend_row(session, name), *replicas.list_others(session, name)]

    def list_addresses(self, row: BackendRow) -> list[str | None]:
        """List the addresses of all replicas of the backend of a row, by number; none if it has no further ones."""
        count = row.spec.get("replicas", 1)
        if count == 1:
            return []
        urls = {each.replica: each.url for each in self.list_replicas(row.replica_of or row.name)}
        return [urls.get(number) for number in range(count)]

    def find_replica(self, name: str, number: int) -> BackendRow:
        """Return the row of a replica.

        Raises:
            NotFound: there is no such backend or replica.
        """
        rows = self.list_replicas(name)
        row = next((row for row in rows if row.replica == number), None)
        if row is None:
            raise NotFound(f'the backend "{name}" has no replica {number}; it has {len(rows)}, counted from 0')
        return row

    def get_row(self, name: str) -> BackendRow:
        """Read the row of a backend.

        Raises:
            NotFound: there is no such backend.
        """
        with self._database.read() as session:
            return _get_row(session, name)

    def list_reserved_ports(self, name: str) -> set[int]:
        """List the ports that the other backends have or asked for: they keep them while they are being restarted."""
        others = [row for row in self.list_rows() if row.name != name and row.wanted and row.state != "failed"]
        asked = {row.spec[field] for row in others for field in ("port", "httpPort") if row.spec[field] is not None}
        return asked | {number for row in others for number in row.ports.values()}

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

    def _to_resource(self, session: Session, row: BackendRow, newest: Newest) -> Backend:
        return create_resource(session, row, newest, self._engine.name, self.tokens.derive(row))

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
        replicas.check_replicas(spec, self._engine.name)
        if not declared:  # one that a manifest declares fails alone, and the others of it start
            self._check_sockets_reachable(spec)
        with self._database.write() as session:
            venv = self._get_venv(session, spec.venv)
            row = self._add_row(session, spec, declared=declared, visible=visible)
            self._adjust_replicas(session, row)
            operation = self._queue_start(session, row)
            if venv.operation is None:
                venv.operation = operation.id
            return self._to_resource(session, row, find_newest(session, self._engine)), operation

    def _check_sockets_reachable(self, spec: BackendSpec) -> None:
        if spec.type == "pipe" and not self._engine.capabilities().sockets:
            name = spec.name or f"{spec.venv}-pipe"
            raise Unimplemented(
                f"type: a Unix socket cannot leave a pod, so the engine {self._engine.name} starts no pipe backend: "
                f"`venvd backend manifest {name} --venv {spec.venv}` prints a pod that has one beside its client"
            )

    def _get_venv(self, session: Session, name: str) -> VenvRow:
        """Read the row of a venv; a missing venv `default` is added."""
        is_missing = name == "default" and session.get(VenvRow, name) is None
        return self._venvs.add_default(session) if is_missing else get_row(session, VenvRow, "venv", name)

    def _add_row(self, session: Session, spec: BackendSpec, *, declared: bool, visible: Visible | None) -> BackendRow:
        rows = session.scalars(select(BackendRow))
        taken = {row.name for row in rows if declared or not _is_replaceable(row, visible)}
        if spec.name is not None and spec.name in taken:
            raise Conflict(f'a backend "{spec.name}" exists already; stop it first, or choose another name')
        name = spec.name or choose_name(f"{spec.venv}-{spec.type}", taken)
        self._check_sockets(session, spec, name)
        failed = session.get(BackendRow, name)
        if failed is not None:
            for each in (failed, *replicas.list_others(session, name)):
                self._operations.cancel_active(session, KIND, each.name)
                session.delete(each)
            remove_secrets(session, "backend", name)
            session.flush()
        row = make_row(name, spec, declared=declared)
        session.add(row)
        session.flush()
        after_commit(session, self.tokens.forget_owners)
        return row

    def _adjust_replicas(self, session: Session, row: BackendRow) -> None:
        """Give a backend the rows of the replicas that it should have, and queue their starts; others end."""
        spec = read_spec(row)
        others = {each.replica: each for each in replicas.list_others(session, row.name)}
        for number in range(1, spec.replicas):
            planned = replicas.plan_replica(spec)
            other = others.pop(number, None)
            if other is None:
                name = replicas.name_replica(row.name, number)
                if session.get(BackendRow, name) is not None:
                    raise Conflict(f'replicas: replica {number} would be "{name}", and a backend has that name')
                other = make_row(name, planned, declared=row.declared)
                other.replica_of, other.replica = row.name, number
                other.nonce, other.tokens = row.nonce, row.tokens
                session.add(other)
                session.flush()
            elif not other.wanted:
                raise Conflict(f"replicas: replica {number} is being removed; try again")
            self._operations.cancel_active(session, KIND, other.name)
            other.venv, other.spec, other.ports = row.venv, asdict(planned), {}
            other.retry_at, other.failures, other.error = 0.0, 0, None
            self._queue_start(session, other)
        for other in others.values():
            self._remove_row(session, other)

    def _check_sockets(self, session: Session, spec: BackendSpec, name: str) -> None:
        """Raise `Conflict` if another backend has the same directory of sockets or name of a pipe."""
        socket_name = choose_socket_name(spec, self._home.id, name)
        if socket_name is None:
            return
        for row in session.scalars(select(BackendRow).where(BackendRow.name != name)):
            other = read_spec(row)
            if spec.pipeName is not None and other.pipeName == spec.pipeName:
                raise Conflict(f'pipeName: the backend "{row.name}" has the name "{spec.pipeName}": choose another')
            if choose_socket_name(other, self._home.id, row.name) == socket_name:
                raise Conflict(
                    f'socketDir: the backend "{row.name}" has {self.host_paths.run_dir / socket_name}: name another'
                )

    def _queue_start(self, session: Session, row: BackendRow) -> OperationInfo:
        operation = self._operations.submit(session, KIND, row.name, row.venv)
        row.state, row.operation = "pending", operation.id
        return operation

    def restart(self, name: str) -> tuple[Backend, OperationInfo]:
        """Queue a restart of all replicas: URL and token stay, sessions are new."""
        with self._database.write() as session:
            row = _get_backend_row(session, name)
            if not row.wanted:
                raise Conflict(f'the backend "{name}" is being removed')
            active = self._operations.find_active(session, KIND, name)
            if active is not None:
                raise Conflict(f'the backend "{name}" is starting already (operation {active.id})')
            for each in (*replicas.list_others(session, name), row):
                if each.wanted and self._operations.find_active(session, KIND, each.name) is None:
                    each.retry_at, each.failures, each.error = 0.0, 0, None
                    operation = self._queue_start(session, each)
            return self._to_resource(session, row, find_newest(session, self._engine)), operation

    def rotate_token(self, name: str, overlap: float) -> TokenRotation:
        """Give a backend a new token; those before it end after `overlap` seconds.

        Raises:
            InvalidRequest: `overlap` is out of bounds.
            Conflict: the backend serves without a token, or too many of its tokens are valid.
        """
        with self._database.write() as session:
            row = _get_backend_row(session, name)
            end = backend_tokens.rotate(row, overlap)
            for other in replicas.list_others(session, name):
                other.tokens = row.tokens
            after_commit(session, self.tokens.forget_owners)
            after_commit(session, self.announce_change)
            return TokenRotation(name, str(self.tokens.derive(row)), end)

    def announce_change(self) -> None:
        """Call the functions that bring tokens and addresses to the servers."""
        for callback in self.on_change:
            callback()

    def declare(self, spec: BackendSpec) -> None:
        """Give an existing backend the (checked) specification of the manifest; a changed one restarts it."""
        with self._database.write() as session:
            row = _get_backend_row(session, str(spec.name))
            changed = replace(read_spec(row), update=spec.update) != spec
            self._get_venv(session, spec.venv)
            self._check_sockets(session, spec, row.name)
            row.declared, row.venv, row.spec = True, spec.venv, asdict(spec)
            after_commit(session, self.tokens.forget_owners)
            if changed and row.wanted:
                self._operations.cancel_active(session, KIND, row.name)
                row.ports, row.retry_at, row.failures, row.error = {}, 0.0, 0, None
                self._adjust_replicas(session, row)
                self._queue_start(session, row)

    def request_removal(self, name: str) -> None:
        """Mark a backend for removal and cancel its start; the reconciler removes it."""
        with self._database.write() as session:
            row = _get_backend_row(session, name)
            for each in (row, *replicas.list_others(session, name)):
                self._remove_row(session, each)

    def _remove_row(self, session: Session, row: BackendRow) -> None:
        row.wanted, row.state = False, "stopping"
        after_commit(session, self.tokens.forget_owners)
        self._operations.cancel_active(session, KIND, row.name)

    # ---- for starts and the reconciler ----

    def assign_user_id(self, name: str, available: Sequence[int]) -> int | None:
        """Return the user ID of a backend's worker host: the one that it has, else one that no other backend has.

        It stays the backend's until its row is deleted.

        Raises:
            Conflict: all are taken.
        """
        with self._database.write() as session:
            row = _get_row(session, name)
            taken = set(session.scalars(select(BackendRow.user_id).where(BackendRow.name != name)))
            if row.user_id not in available or row.user_id in taken:
                row.user_id = next((number for number in available if number not in taken), None)
                if available and row.user_id is None:
                    raise Conflict(f"all {len(available)} user IDs of this home have a backend: remove some backends")
            return row.user_id

    def update(self, name: str, **values: object) -> None:
        """Write columns of a backend; the state only while the backend is wanted."""
        with self._database.write() as session:
            if "state" in values:
                session.execute(_update(name).where(BackendRow.wanted).values(state=values.pop("state")))
            if values:
                session.execute(_update(name).values(**values))

    def update_if_unchanged(self, seen: BackendRow, **values: object) -> bool:
        """Write columns of a backend unless it changed since `seen` was read; return whether they were written."""
        with self._database.write() as session:
            if self._has_changed(session, seen):
                return False
            session.execute(_update(seen.name).values(**values))
        return True

    def start_if_unchanged(self, seen: BackendRow) -> None:
        """Queue a start of a backend unless it changed since `seen` was read."""
        with self._database.write() as session:
            if not self._has_changed(session, seen):
                self._queue_start(session, _get_row(session, seen.name))

    def _has_changed(self, session: Session, seen: BackendRow) -> bool:
        row = session.get(BackendRow, seen.name)
        return (
            row is None
            or get_version(row) != get_version(seen)
            or self._operations.find_active(session, KIND, seen.name) is not None
        )

    def delete_row(self, name: str) -> None:
        """Delete the row of a launch that has ended. The row of a backend stays until all others of it are gone."""
        with self._database.write() as session:
            row = session.get(BackendRow, name)
            if row is not None and replicas.list_others(session, name):
                row.record, row.launch = None, None
            elif row is not None:
                remove_secrets(session, "backend", name)
                session.delete(row)
                after_commit(session, self.tokens.forget_owners)

    def record_failure(self, session: Session, name: str, operation: str, error: VenvdError) -> None:
        """Note a failed start. The reconciler retries a backend that ran before, not one that never ran."""
        row = session.get(BackendRow, name)
        if row is None or row.operation != operation or not row.wanted:
            return
        row.state = "unhealthy" if row.started_at else "failed"
        row.error = error.message
        if not isinstance(error, Cancelled):
            row.failures += 1
            row.retry_at = time.time() + get_retry_delay(row.failures)

    # ---- backends that a manifest declares ----

    def stop_declared(self, name: str, manifest: str) -> None:
        """Mark a declared backend for removal, and keep it from being started while the manifest has this digest."""
        with self._database.write() as session:
            session.merge(StoppedRow(backend=name, manifest=manifest))
        self.request_removal(name)

    def list_stopped(self, manifest: str) -> set[str]:
        """List the declared backends that are stopped while the manifest has this digest."""
        with self._database.read() as session:
            return set(session.scalars(select(StoppedRow.backend).where(StoppedRow.manifest == manifest)))

    def restart_outdated(self) -> None:
        """Restart the next backend with `update: rolling` that is outdated, once all others of its venv run."""
        rows = [row for row in self.list_rows() if row.wanted and row.spec.get("update") == "rolling"]
        if not rows:
            return
        with self._database.read() as session:
            newest = find_newest(session, self._engine)
        busy = {row.venv for row in rows if row.state != "running"}
        for row in rows:
            if row.venv not in busy and newest.replaces(row):
                log.info("%s: its build or its server is older than a start would give it; it is restarted", row.name)
                busy.add(row.venv)
                self.start_if_unchanged(row)


def _is_replaceable(row: BackendRow, visible: Visible | None) -> bool:
    """Return whether a backend stays only to show its error: a new start of the same name replaces it."""
    shown = visible is None or any(fnmatchcase(row.venv, name) for name in visible.venvs)
    return shown and row.wanted and row.state == "failed" and not row.declared


def get_retry_delay(failures: int) -> float:
    """Return the seconds before the next start after so many successive failures."""
    return min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** (failures - 1)) if failures else 0.0


def get_version(row: BackendRow) -> tuple[object, ...]:
    """Return the columns that every operation and command changes."""
    return (row.launch, row.state, row.operation, row.wanted, row.failures)


def _update(name: str) -> Any:
    return update(BackendRow).where(BackendRow.name == name)


def _get_row(session: Session, name: str) -> BackendRow:
    return get_row(session, BackendRow, "backend", name)


def _get_backend_row(session: Session, name: str) -> BackendRow:
    """Read the row of a backend, not of a further replica of one."""
    row = _get_row(session, name)
    if row.replica_of is not None:
        raise NotFound(f'"{name}" is replica {row.replica} of the backend "{row.replica_of}": name the backend')
    return row
