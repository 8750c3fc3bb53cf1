"""Runtimes: the requested CPython versions, and the exact ones to which the engine resolved them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, InUse, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Runtime, check_version
from venvd_controller.clock import now
from venvd_controller.database import Database, get_row
from venvd_controller.database.tables import RuntimeRow, VenvRow
from venvd_controller.operations import OperationKind, Operations, Run
from venvd_controller.single_flight import SingleFlight
from venvd_engines.engine import Engine, Progress, RuntimeRef
from venvd_engines.pyproject import RequiresPython

SUPPORTED = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9")
"""The versions to try, in this order, while no default is chosen."""
KIND = "runtime.init"


class Runtimes:
    def __init__(self, database: Database, engine: Engine, operations: Operations) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._resolves: SingleFlight[RuntimeRef] = SingleFlight()
        operations.register(KIND, OperationKind(self._run_init, _record_failure))

    def list_all(self, after: str | None = None, limit: int = 1000) -> Sequence[Runtime]:
        query = select(RuntimeRow).where(RuntimeRow.version > (after or ""))
        with self._database.read() as session:
            return [_to_resource(row) for row in session.scalars(query.order_by(RuntimeRow.version).limit(limit))]

    def get(self, version: str) -> Runtime:
        with self._database.read() as session:
            return _to_resource(_get_row(session, version))

    def resume(self) -> None:
        """Queue operations for wanted runtimes that are not ready and have no operation."""
        with self._database.write() as session:
            for row in session.scalars(select(RuntimeRow).where(RuntimeRow.state.in_(("pending", "building")))):
                self._queue_init(session, row)

    # ---- commands ----

    def put(self, version: str, *, declared: bool = False) -> tuple[Runtime, OperationInfo | None]:
        """Add a runtime. The operation is None if the runtime is ready.

        The first runtime that a client asks for becomes the default when it is ready. A declared one does not.
        """
        check_version(version)
        with self._database.write() as session:
            row = session.get(RuntimeRow, version)
            if row is None:
                row = RuntimeRow(
                    version=version, state="pending", is_default=False, created_at=now(), declared=declared
                )
                session.add(row)
                session.flush()
            row.declared = row.declared or declared
            if row.state != "ready":
                return _to_resource(row), self._queue_init(session, row)
            if not declared:
                self._mark_first_default(session, version)
            return _to_resource(row), None

    def _mark_first_default(self, session: Session, version: str) -> None:
        """Mark a ready runtime as the default if none is chosen. The first `init` chooses; later ones do not."""
        if self.find_default(session) is None:
            _get_row(session, version).is_default = True

    def _queue_init(self, session: Session, row: RuntimeRow) -> OperationInfo:
        active = self._operations.find_joinable(session, KIND, row.version)
        if active is not None:
            return active
        operation = self._operations.submit(session, KIND, row.version)
        row.state, row.error, row.operation = "pending", None, operation.id
        return operation

    def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name none, and initialise it if necessary."""
        self.put(version)
        with self._database.write() as session:
            session.execute(update(RuntimeRow).values(is_default=False))
            _get_row(session, version).is_default = True
        return self.get(version)

    def delete(self, version: str) -> None:
        """Delete a runtime that no venv uses."""
        with self._database.write() as session:
            row = _get_row(session, version)
            users = session.scalars(select(VenvRow.name).where(VenvRow.runtime == version).order_by(VenvRow.name)).all()
            if users:
                raise InUse(f"runtime {version} is used by the venvs {', '.join(users)}")
            self._operations.cancel_active(session, KIND, version)
            session.delete(row)

    # ---- for builds ----

    def find_default(self, session: Session) -> str | None:
        """Return the version of the chosen default, or None if no default is chosen."""
        return session.scalars(select(RuntimeRow.version).where(RuntimeRow.is_default)).first()

    def list_ready(self, session: Session) -> list[str]:
        """List the runtimes that are ready, newest first."""
        ready = session.scalars(select(RuntimeRow.version).where(RuntimeRow.state == "ready"))
        return sorted(ready, key=_parse_version, reverse=True)

    def ensure_newest(self, progress: Progress, needed: RequiresPython) -> RuntimeRef:
        """Initialise the newest supported CPython that fits `needed` and that the engine can provide."""
        missing = []
        for version in filter(needed.allows, SUPPORTED):
            try:
                runtime = self.ensure(version, progress)
            except NotFound as error:
                missing.append(error.message)
            else:
                self._mark_if_undeclared(version)
                return runtime
        raise NotFound("the engine has none of the supported CPythons: " + "; ".join(missing))

    def ensure(self, version: str, progress: Progress) -> RuntimeRef:
        """Return a runtime, initialised if necessary."""
        with self._database.read() as session:
            row = session.get(RuntimeRow, version)
        if row is not None and row.state == "ready" and row.resolved and row.base:
            return RuntimeRef(version, row.resolved, row.base)
        name = f"the search for CPython {version}"
        return self._resolves.run(version, name, partial(self._resolve, version), progress)

    def _run_init(self, version: str, run: Run) -> None:
        run.phase("runtime")
        self.ensure(version, run)
        self._mark_if_undeclared(version)

    def _mark_if_undeclared(self, version: str) -> None:
        """Mark a runtime as the default if none is chosen and the manifest does not declare it."""
        with self._database.write() as session:
            row = session.get(RuntimeRow, version)
            if row is not None and not row.declared:
                self._mark_first_default(session, version)

    def _resolve(self, version: str, progress: Progress) -> RuntimeRef:
        progress.phase("runtime")
        self._update(version, state="building", error=None)
        try:
            runtime = self._engine.resolve(version, progress)
        except VenvdError as error:
            self._update(version, state="failed", error=error.message)
            raise
        with self._database.write() as session:
            row = session.get(RuntimeRow, version)
            if row is None:
                # a version that no client named becomes a runtime only if the engine has it
                row = RuntimeRow(version=version, is_default=False, created_at=now(), declared=False)
                session.add(row)
            row.state, row.error, row.resolved, row.base = "ready", None, runtime.resolved, runtime.base
        return runtime

    def _update(self, version: str, **values: object) -> None:
        with self._database.write() as session:
            session.execute(update(RuntimeRow).where(RuntimeRow.version == version).values(**values))


def _get_row(session: Session, version: str) -> RuntimeRow:
    return get_row(session, RuntimeRow, "runtime", version)


def _record_failure(session: Session, version: str, operation: str, error: VenvdError) -> None:
    """Mark the runtime as failed if its operation never began the search. The search records its own failures."""
    row = session.get(RuntimeRow, version)
    if row is None or row.operation != operation or row.state not in {"pending", "building"}:
        return
    shared = isinstance(error, Cancelled) and row.state == "building"  # another caller still waits for the search
    if not shared:
        row.state, row.error = "failed", error.message


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def _to_resource(row: RuntimeRow) -> Runtime:
    return Runtime(
        version=row.version,
        state=row.state,
        default=row.is_default,
        createdAt=row.created_at,
        resolvedVersion=row.resolved,
        base=row.base,
        error=row.error,
        operation=row.operation,
    )
