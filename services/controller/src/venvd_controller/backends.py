"""Backends: desired state in the database, and resources for the API."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, VenvdError
from venvd_contract.resources import Backend, BackendLimits, BackendSpec, OperationInfo, TokenRotation, Walls
from venvd_controller import __version__, backend_tokens
from venvd_controller.backend_tokens import TokenNonce
from venvd_controller.callers import Visible, match_names
from venvd_controller.clock import add_seconds, now
from venvd_controller.database import Database, after_commit, get_row
from venvd_controller.database.tables import BackendRow, StoppedRow, VenvRow
from venvd_controller.home import Home
from venvd_controller.host_paths import HostPaths
from venvd_controller.operations import Operations
from venvd_controller.specs import check_backend, choose_socket_name
from venvd_controller.venvs import Venvs
from venvd_engines.addresses import url_host
from venvd_engines.engine import LaunchRecord
from venvd_http.auth import sha256

log = logging.getLogger("venvd.controller")

KIND = "backend.start"
_FIRST_DELAY = 2.0
_MAX_DELAY = 60.0
"""Seconds between two starts of a backend that fails; the delay doubles with each failure."""


@dataclass(frozen=True)
class TokenOwner:
    """A backend to which a token belongs, and the venvs that it manages with it: none with that of its clients.

    Attributes:
        source: what the token was derived from, if it is one of its clients.
    """

    backend: str
    manages: tuple[str, ...] = ()
    source: TokenNonce | None = None


class Backends:
    """All backends.

    Attributes:
        on_rotation: functions called after a token was rotated.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        engine_name: str,
        operations: Operations,
        venvs: Venvs,
        host_paths: HostPaths,
    ) -> None:
        self.host_paths = host_paths
        self._database = database
        self._home = home
        self._engine_name = engine_name
        self._operations = operations
        self._venvs = venvs
        self._token_owners: dict[str, TokenOwner] | None = None
        """By the digests of their tokens; None after a change."""
        self._changes = 0
        self.on_rotation: list[Callable[[], None]] = []

    def list_all(
        self, after: str | None = None, limit: int = 1000, visible: Visible | None = None
    ) -> Sequence[Backend]:
        query = select(BackendRow).where(BackendRow.name > (after or ""))
        if visible is not None:
            names = match_names(BackendRow.name, visible.backends)
            query = query.where(or_(match_names(BackendRow.venv, visible.venvs), names))
        with self._database.read() as session:
            builds = _read_builds(session)
            rows = session.scalars(query.order_by(BackendRow.name).limit(limit))
            return [self._to_resource(row, builds) for row in rows]

    def list_rows(self) -> Sequence[BackendRow]:
        with self._database.read() as session:
            return session.scalars(select(BackendRow).order_by(BackendRow.name)).all()

    def get(self, name: str) -> Backend:
        with self._database.read() as session:
            return self._to_resource(_get_row(session, name), _read_builds(session))

    def get_row(self, name: str) -> BackendRow:
        """Read the row of a backend.

        Raises:
            NotFound: there is no such backend.
        """
        with self._database.read() as session:
            return _get_row(session, name)

    def list_reserved_ports(self, name: str) -> set[int]:
        """List the ports of the other backends, also of those that are being restarted: they keep their ports."""
        others = [row for row in self.list_rows() if row.name != name and row.wanted and row.state != "failed"]
        return {number for row in others for number in row.ports.values()}

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

    def derive_metrics_token(self, row: BackendRow) -> str:
        return self._home.derive_token("metrics", row.nonce)

    def derive_token(self, row: BackendRow) -> str | None:
        """Derive the newest token of a backend's clients; None if the backend serves without a token."""
        return self._derive(backend_tokens.list_nonces(row)[-1]) if row.spec["token"] else None

    def _derive(self, source: TokenNonce) -> str:
        return self._home.derive_token("backend", source.nonce)

    def list_tokens(self, row: BackendRow) -> list[tuple[str, str | None]]:
        """List the digests of the tokens of a backend's clients and their ends, also of those that have ended."""
        nonces = backend_tokens.list_nonces(row) if row.spec["token"] else []
        return [(sha256(self._derive(each)), each.expiresAt) for each in nonces]

    def derive_manages_key(self, row: BackendRow) -> str:
        """Derive the key for the venvs that a backend manages; it is valid as long as the backend is wanted."""
        return self._home.derive_token("manages", row.nonce)

    def find_token_owner(self, digest: str) -> TokenOwner | None:
        """Find the backend to which the token with this SHA-256 belongs.

        Only the first search after a change of the backends reads the database.
        """
        owners, changes = self._token_owners, self._changes
        if owners is None:
            owners = self._read_token_owners()
            if changes == self._changes:  # else it may have been read before the change
                self._token_owners = owners
        return owners.get(digest)

    def _read_token_owners(self) -> dict[str, TokenOwner]:
        owners = {}
        for row in self.list_rows():
            if row.spec["token"]:
                for source in backend_tokens.list_nonces(row):
                    owners[sha256(self._derive(source))] = TokenOwner(row.name, source=source)
            manages: Sequence[str] = row.spec.get("manages") or ()
            if row.wanted and manages:
                owners[sha256(self.derive_manages_key(row))] = TokenOwner(row.name, tuple(manages))
        return owners

    def _forget_token_owners(self) -> None:
        self._changes += 1
        self._token_owners = None

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
        """
        spec = check_backend(spec, self.host_paths)
        with self._database.write() as session:
            venv = self._get_venv(session, spec.venv)
            row = self._add_row(session, spec, declared=declared, visible=visible)
            operation = self._queue_start(session, row)
            if venv.operation is None:
                venv.operation = operation.id
            return self._to_resource(row, _read_builds(session)), operation

    def _get_venv(self, session: Session, name: str) -> VenvRow:
        """Read the row of a venv; a missing venv `default` is added."""
        if name == "default" and session.get(VenvRow, name) is None:
            return self._venvs.add_default(session)
        return get_row(session, VenvRow, "venv", name)

    def _add_row(self, session: Session, spec: BackendSpec, *, declared: bool, visible: Visible | None) -> BackendRow:
        rows = session.scalars(select(BackendRow))
        taken = {row.name for row in rows if declared or not _is_replaceable(row, visible)}
        if spec.name is not None and spec.name in taken:
            raise Conflict(f'a backend "{spec.name}" exists already; stop it first, or choose another name')
        name = spec.name or _choose_name(f"{spec.venv}-{spec.type}", taken)
        self._check_sockets(session, spec, name)
        failed = session.get(BackendRow, name)
        if failed is not None:
            session.delete(failed)
            session.flush()
        row = BackendRow(
            name=name,
            venv=spec.venv,
            spec=asdict(spec),
            wanted=True,
            state="pending",
            created_at=now(),
            nonce=secrets.token_hex(12),
            ports={},
            restarts=0,
            failures=0,
            retry_at=0.0,
            declared=declared,
        )
        session.add(row)
        session.flush()
        after_commit(session, self._forget_token_owners)
        return row

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
        """Queue a restart: URL and token stay, sessions are new."""
        with self._database.write() as session:
            row = _get_row(session, name)
            if not row.wanted:
                raise Conflict(f'the backend "{name}" is being removed')
            active = self._operations.find_active(session, KIND, name)
            if active is not None:
                raise Conflict(f'the backend "{name}" is starting already (operation {active.id})')
            row.retry_at, row.failures, row.error = 0.0, 0, None
            operation = self._queue_start(session, row)
            return self._to_resource(row, _read_builds(session)), operation

    def rotate_token(self, name: str, overlap: float) -> TokenRotation:
        """Give a backend a new token; those before it end after `overlap` seconds.

        Raises:
            InvalidRequest: `overlap` is out of bounds.
            Conflict: the backend serves without a token, or too many of its tokens are valid.
        """
        with self._database.write() as session:
            row = _get_row(session, name)
            end = backend_tokens.rotate(row, overlap)
            after_commit(session, self._forget_token_owners)
            after_commit(session, self._announce_rotation)
            return TokenRotation(name, str(self.derive_token(row)), end)

    def _announce_rotation(self) -> None:
        for callback in self.on_rotation:
            callback()

    def declare(self, spec: BackendSpec) -> None:
        """Give an existing backend the (checked) specification of the manifest; a changed one restarts it."""
        with self._database.write() as session:
            row = _get_row(session, str(spec.name))
            changed = replace(read_spec(row), update=spec.update) != spec
            self._get_venv(session, spec.venv)
            self._check_sockets(session, spec, row.name)
            row.declared, row.venv, row.spec = True, spec.venv, asdict(spec)
            after_commit(session, self._forget_token_owners)
            if changed and row.wanted:
                self._operations.cancel_active(session, KIND, row.name)
                row.ports, row.retry_at, row.failures, row.error = {}, 0.0, 0, None
                self._queue_start(session, row)

    def request_removal(self, name: str) -> None:
        """Mark a backend for removal and cancel its start; the reconciler removes it."""
        with self._database.write() as session:
            row = _get_row(session, name)
            row.wanted, row.state = False, "stopping"
            after_commit(session, self._forget_token_owners)
            self._operations.cancel_active(session, KIND, name)

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
        with self._database.write() as session:
            row = session.get(BackendRow, name)
            if row is not None:
                session.delete(row)
                after_commit(session, self._forget_token_owners)

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
        with self._database.read() as session:
            builds = _read_builds(session)
            rows = session.scalars(select(BackendRow).where(BackendRow.wanted).order_by(BackendRow.name)).all()
        busy = {row.venv for row in rows if row.spec.get("update") == "rolling" and row.state != "running"}
        for row in rows:
            if row.spec.get("update") == "rolling" and row.venv not in busy and _is_outdated(row, builds):
                log.info("%s: its build or its server is older than a start would give it; it is restarted", row.name)
                busy.add(row.venv)
                self.start_if_unchanged(row)

    def _to_resource(self, row: BackendRow, builds: Mapping[str, str]) -> Backend:
        return Backend(
            name=row.name,
            type=row.spec["type"],
            venv=row.venv,
            state=row.state,
            spec=read_spec(row),
            engine=self._engine_name,
            createdAt=row.created_at,
            url=row.url,
            httpUrl=_make_http_url(row),
            token=self.derive_token(row),
            python=row.python,
            key=row.key,
            startedAt=row.started_at,
            restarts=row.restarts,
            error=row.error,
            operation=row.operation,
            walls=None if row.walls is None else Walls(**row.walls),
            outdated=_is_outdated(row, builds),
            expiresAt=find_expiry(row),
        )


def find_expiry(row: BackendRow) -> str | None:
    """Return when the time to live of a backend ends."""
    ttl = row.spec.get("ttl")
    return None if ttl is None else add_seconds(row.created_at, ttl)


def _read_builds(session: Session) -> dict[str, str]:
    """Read the key of the newest image of each venv that has one."""
    query = select(VenvRow.name, VenvRow.image["key"].as_string()).where(VenvRow.image.is_not(None))
    return {name: key for name, key in session.execute(query) if key is not None}


def _is_outdated(row: BackendRow, builds: Mapping[str, str]) -> bool:
    """Return whether a start would give a backend that runs a newer build of its venv or a newer server."""
    if row.record is None:
        return False
    return row.key != builds.get(row.venv, row.key) or row.server != __version__


def _make_http_url(row: BackendRow) -> str | None:
    """Make the published address of a gRPC server's HTTP port, once it has one."""
    port = row.ports.get("http") if row.spec["type"] == "rpc" else None
    return None if port is None else f"http://{url_host(row.spec['host'])}:{port}"


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


def read_spec(row: BackendRow) -> BackendSpec:
    fields: dict[str, Any] = dict(row.spec)
    return BackendSpec(**{**fields, "limits": BackendLimits(**fields["limits"])})


def _update(name: str) -> Any:
    return update(BackendRow).where(BackendRow.name == name)


def _get_row(session: Session, name: str) -> BackendRow:
    return get_row(session, BackendRow, "backend", name)


def _choose_name(base: str, taken: set[str]) -> str:
    base = base[:58].rstrip("-")
    if base not in taken:
        return base
    return next(name for number in range(2, len(taken) + 3) if (name := f"{base}-{number}") not in taken)
