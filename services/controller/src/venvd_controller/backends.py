"""Backends: what is wanted, and how the API tells of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, VenvdError
from venvd_contract.resources import Backend, BackendLimits, BackendSpec, OperationInfo
from venvd_controller.absent import absent
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, VenvRow
from venvd_controller.home import Home
from venvd_controller.operations import Operations
from venvd_controller.specs import checked_backend, socket_name
from venvd_controller.venvs import Venvs
from venvd_engines.engine import LaunchRecord

KIND = "backend.start"
_FIRST_WAIT = 2.0
_MOST_WAIT = 60.0
"""Seconds between two tries of a backend that does not start or stay: the first, and the most."""


class Backends:
    def __init__(
        self,
        database: Database,
        home: Home,
        engine_name: str,
        operations: Operations,
        venvs: Venvs,
        run_dir: Path,
    ) -> None:
        self.run_dir = run_dir
        self._database = database
        self._home = home
        self._engine_name = engine_name
        self._operations = operations
        self._venvs = venvs

    def all(self, after: str | None = None, limit: int = 1000) -> Sequence[Backend]:
        query = select(BackendRow).where(BackendRow.name > (after or ""))
        with self._database.read() as session:
            return [self._backend(row) for row in session.scalars(query.order_by(BackendRow.name).limit(limit))]

    def rows(self) -> Sequence[BackendRow]:
        with self._database.read() as session:
            return session.scalars(select(BackendRow).order_by(BackendRow.name)).all()

    def get(self, name: str) -> Backend:
        return self._backend(self.row(name))

    def row(self, name: str) -> BackendRow:
        """Raises `NotFound`."""
        with self._database.read() as session:
            return _found(session, name)

    def reserved(self, name: str) -> set[int]:
        """The ports of the other backends: one that is just being started again comes back to its own."""
        others = [row for row in self.rows() if row.name != name and row.wanted and row.state != "failed"]
        return {number for row in others for number in row.ports.values()}

    def record(self, name: str) -> LaunchRecord:
        """Where a backend runs; `Conflict` while it does not."""
        row = self.row(name)
        if row.record is None:
            why = f": {row.error}" if row.error else ""
            raise Conflict(f'the backend "{name}" is {row.state} and does not run{why}')
        return LaunchRecord(**row.record)

    def metrics_token(self, row: BackendRow) -> str:
        return self._home.derive("metrics", row.nonce)

    def token(self, row: BackendRow) -> str | None:
        """The token of its clients; None where it was asked to serve without."""
        return self._home.derive("backend", row.nonce) if row.spec["token"] else None

    # ---- changing ----

    def start(self, spec: BackendSpec, *, owned: bool = False) -> tuple[Backend, OperationInfo]:
        """Begin to start a new backend; it takes the place of one of that name which failed and never ran.

        Raises:
            InvalidRequest: a field is wrong.
            Forbidden: it would be open to the network without a token.
            NotFound: there is no such venv.
            Conflict: the name is taken.
        """
        spec = checked_backend(spec, self.run_dir)
        with self._database.write() as session:
            venv = self._venv(session, spec.venv)
            row = self._add(session, spec, owned=owned)
            operation = self._begin(session, row)
            if venv.operation is None:
                venv.operation = operation.id
            return self._backend(row), operation

    def _venv(self, session: Session, name: str) -> VenvRow:
        """The venv `default` is made where it is absent; any other must be there."""
        row = session.get(VenvRow, name)
        if row is None and name != "default":
            raise absent("venv", name, session.scalars(select(VenvRow.name)))
        return row or self._venvs.add_default(session)

    def _add(self, session: Session, spec: BackendSpec, *, owned: bool) -> BackendRow:
        taken = {row.name for row in session.scalars(select(BackendRow)) if owned or not _replaceable(row)}
        if spec.name is not None and spec.name in taken:
            raise Conflict(f'a backend "{spec.name}" exists already; stop it first, or take another name')
        name = spec.name or _free_name(f"{spec.venv}-{spec.type}", taken)
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
            owned=owned,
        )
        session.add(row)
        session.flush()
        return row

    def _check_sockets(self, session: Session, spec: BackendSpec, name: str) -> None:
        """Raises `Conflict` where another backend has the directory of sockets."""
        wanted = socket_name(spec, self._home.id, name)
        for row in session.scalars(select(BackendRow).where(BackendRow.name != name)):
            if wanted is not None and socket_name(spec_of(row), self._home.id, row.name) == wanted:
                raise Conflict(f'socketDir: the backend "{row.name}" has {self.run_dir / wanted}: name another')

    def _begin(self, session: Session, row: BackendRow) -> OperationInfo:
        operation = self._operations.submit(session, KIND, row.name)
        row.state, row.operation = "pending", operation.id
        return operation

    def restart(self, name: str) -> tuple[Backend, OperationInfo]:
        """Begin to restart a backend: the same URL and token, fresh sessions."""
        with self._database.write() as session:
            row = _found(session, name)
            if not row.wanted:
                raise Conflict(f'the backend "{name}" is being removed')
            active = self._operations.active(session, KIND, name)
            if active is not None:
                raise Conflict(f'the backend "{name}" is starting already (operation {active.id})')
            row.retry_at, row.failures, row.error = 0.0, 0, None
            operation = self._begin(session, row)
            return self._backend(row), operation

    def respecify(self, spec: BackendSpec) -> None:
        """Have a backend run by another specification, which is checked already, under the same name and token."""
        with self._database.write() as session:
            row = _found(session, str(spec.name))
            changed = row.spec != asdict(spec)
            self._venv(session, spec.venv)
            self._check_sockets(session, spec, row.name)
            row.owned, row.venv, row.spec = True, spec.venv, asdict(spec)
            if changed and row.wanted:
                self._operations.cancel_active(session, KIND, row.name)
                row.ports, row.retry_at, row.failures, row.error = {}, 0.0, 0, None
                self._begin(session, row)

    def unwant(self, name: str) -> None:
        """Note that a backend is to go; what starts it is cancelled."""
        with self._database.write() as session:
            row = _found(session, name)
            row.wanted, row.state = False, "stopping"
            self._operations.cancel_active(session, KIND, name)

    # ---- what work and the reconcile loop note ----

    def update(self, name: str, **values: object) -> None:
        """Note what became of a backend; its state only while it is wanted."""
        with self._database.write() as session:
            if "state" in values:
                session.execute(_of(name).where(BackendRow.wanted).values(state=values.pop("state")))
            if values:
                session.execute(_of(name).values(**values))

    def note(self, seen: BackendRow, **values: object) -> bool:
        """Note what was found of a backend, unless somebody has done something with it since it was looked at."""
        with self._database.write() as session:
            if self._changed_since(session, seen):
                return False
            session.execute(_of(seen.name).values(**values))
        return True

    def begin_again(self, seen: BackendRow) -> None:
        """Have a backend started, unless somebody has seen to it since it was looked at."""
        with self._database.write() as session:
            if not self._changed_since(session, seen):
                self._begin(session, _found(session, seen.name))

    def _changed_since(self, session: Session, seen: BackendRow) -> bool:
        row = session.get(BackendRow, seen.name)
        return (
            row is None
            or version(row) != version(seen)
            or self._operations.active(session, KIND, seen.name) is not None
        )

    def forget(self, name: str) -> None:
        with self._database.write() as session:
            row = session.get(BackendRow, name)
            if row is not None:
                session.delete(row)

    def note_failure(self, session: Session, name: str, operation: str, error: VenvdError) -> None:
        """A start failed; what ran before is tried again, what never did waits for its owner."""
        row = session.get(BackendRow, name)
        if row is None or row.operation != operation or not row.wanted:
            return
        row.state = "unhealthy" if row.started_at else "failed"
        row.error = error.message
        if not isinstance(error, Cancelled):
            row.failures += 1
            row.retry_at = time.time() + wait_before(row.failures)

    # ---- telling ----

    def _backend(self, row: BackendRow) -> Backend:
        return Backend(
            name=row.name,
            type=row.spec["type"],
            venv=row.venv,
            state=row.state,
            spec=spec_of(row),
            engine=self._engine_name,
            createdAt=row.created_at,
            url=row.url,
            token=self.token(row),
            python=row.python,
            key=row.key,
            startedAt=row.started_at,
            restarts=row.restarts,
            error=row.error,
            operation=row.operation,
        )


def _replaceable(row: BackendRow) -> bool:
    """Whether a backend is kept only so that its error can be read: a new start of its name takes its place."""
    return row.wanted and row.state == "failed" and not row.owned


def wait_before(failures: int) -> float:
    """Seconds before a backend that failed so often in a row is started again."""
    return min(_MOST_WAIT, _FIRST_WAIT * 2.0 ** (failures - 1)) if failures else 0.0


def version(row: BackendRow) -> tuple[object, ...]:
    """What changes whenever an operation or a caller does something with a backend."""
    return (row.launch, row.state, row.operation, row.wanted, row.failures)


def spec_of(row: BackendRow) -> BackendSpec:
    fields: dict[str, Any] = dict(row.spec)
    return BackendSpec(**{**fields, "limits": BackendLimits(**fields["limits"])})


def _of(name: str) -> Any:
    return update(BackendRow).where(BackendRow.name == name)


def _found(session: Session, name: str) -> BackendRow:
    row = session.get(BackendRow, name)
    if row is None:
        raise absent("backend", name, session.scalars(select(BackendRow.name)))
    return row


def _free_name(wanted: str, taken: set[str]) -> str:
    base = wanted[:58].rstrip("-")
    if base not in taken:
        return base
    return next(name for number in range(2, len(taken) + 3) if (name := f"{base}-{number}") not in taken)
