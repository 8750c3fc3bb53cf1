"""Runtimes: CPythons that were asked for and what they resolved to."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, InUse, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Runtime, check_version
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import RuntimeRow, VenvRow
from venvd_controller.operations import Kind, Operations, Run
from venvd_controller.shared import SharedWork
from venvd_engines.engine import Engine, Progress, RuntimeRef

SUPPORTED = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9")
"""Tried in this order where nobody chose a default."""
KIND = "runtime.init"


class Runtimes:
    def __init__(self, database: Database, engine: Engine, operations: Operations) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._shared: SharedWork[RuntimeRef] = SharedWork()
        operations.register(KIND, Kind(self._init, _note_failure))

    def all(self, after: str | None = None, limit: int = 1000) -> Sequence[Runtime]:
        query = select(RuntimeRow).where(RuntimeRow.version > (after or ""))
        with self._database.read() as session:
            return [_runtime(row) for row in session.scalars(query.order_by(RuntimeRow.version).limit(limit))]

    def get(self, version: str) -> Runtime:
        with self._database.read() as session:
            return _runtime(_row(session, version))

    def resume(self) -> None:
        """Look for those that are wanted, not ready, and that nobody sees to."""
        with self._database.write() as session:
            for row in session.scalars(select(RuntimeRow).where(RuntimeRow.state.in_(("pending", "building")))):
                self._begin(session, row)

    # ---- changing ----

    def put(self, version: str, *, owned: bool = False) -> tuple[Runtime, OperationInfo | None]:
        """Ask for a runtime; nothing to do where it is ready."""
        check_version(version)
        with self._database.write() as session:
            row = session.get(RuntimeRow, version)
            if row is None:
                row = RuntimeRow(version=version, state="pending", is_default=False, created_at=now(), owned=owned)
                session.add(row)
                session.flush()
            row.owned = row.owned or owned
            operation = None if row.state == "ready" else self._begin(session, row)
            return _runtime(row), operation

    def _begin(self, session: Session, row: RuntimeRow) -> OperationInfo:
        active = self._operations.active(session, KIND, row.version)
        if active is not None:
            return active
        operation = self._operations.submit(session, KIND, row.version)
        row.state, row.error, row.operation = "pending", None, operation.id
        return operation

    def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name none; it is initialised where it is not."""
        self.put(version)
        with self._database.write() as session:
            session.execute(update(RuntimeRow).values(is_default=False))
            _row(session, version).is_default = True
        return self.get(version)

    def delete(self, version: str) -> None:
        """Forget a runtime that no venv uses."""
        with self._database.write() as session:
            row = _row(session, version)
            users = session.scalars(select(VenvRow.name).where(VenvRow.runtime == version).order_by(VenvRow.name)).all()
            if users:
                raise InUse(f"runtime {version} is used by the venvs {', '.join(users)}")
            self._operations.cancel_active(session, KIND, version)
            session.delete(row)

    # ---- for work that needs one ----

    def chosen(self, session: Session) -> str | None:
        """The default that somebody chose."""
        return session.scalars(select(RuntimeRow.version).where(RuntimeRow.is_default)).first()

    def newest_ready(self, session: Session) -> str | None:
        ready = session.scalars(select(RuntimeRow.version).where(RuntimeRow.state == "ready"))
        return max(ready, key=_order, default=None)

    def newest(self, progress: Progress) -> RuntimeRef:
        """The newest supported CPython that the engine can provide."""
        missing = []
        for version in SUPPORTED:
            try:
                return self.ensure(version, progress)
            except NotFound as error:
                missing.append(error.message)
        raise NotFound("the engine has none of the supported CPythons: " + "; ".join(missing))

    def ensure(self, version: str, progress: Progress) -> RuntimeRef:
        """The runtime, initialised where it is not."""
        with self._database.read() as session:
            row = session.get(RuntimeRow, version)
        if row is not None and row.state == "ready" and row.resolved and row.base:
            return RuntimeRef(version, row.resolved, row.base)

        def work(shared: Progress) -> RuntimeRef:
            return self._resolve(version, shared)

        return self._shared.get(version, f"the search for CPython {version}", work, progress)

    def _init(self, version: str, run: Run) -> None:
        run.phase("runtime")
        self.ensure(version, run)

    def _resolve(self, version: str, progress: Progress) -> RuntimeRef:
        progress.phase("runtime")
        self._update(version, state="building", error=None)
        try:
            found = self._engine.resolve(version, progress)
        except VenvdError as error:
            self._update(version, state="failed", error=error.message)
            raise
        with self._database.write() as session:
            row = session.get(RuntimeRow, version)
            if row is None:
                # only what was found becomes a runtime where nobody asked for it by name
                row = RuntimeRow(version=version, is_default=False, created_at=now(), owned=False)
                session.add(row)
            row.state, row.error, row.resolved, row.base = "ready", None, found.resolved, found.base
        return found

    def _update(self, version: str, **values: object) -> None:
        with self._database.write() as session:
            session.execute(update(RuntimeRow).where(RuntimeRow.version == version).values(**values))


def _row(session: Session, version: str) -> RuntimeRow:
    row = session.get(RuntimeRow, version)
    if row is None:
        raise NotFound(f'no runtime "{version[:40]}"')
    return row


def _note_failure(session: Session, version: str, operation: str, error: VenvdError) -> None:
    row = session.get(RuntimeRow, version)
    if row is not None and row.operation == operation and row.state in {"pending", "building"}:
        # the search itself has noted its own failures; what is left here never began, or was given up
        shared = isinstance(error, Cancelled) and row.state == "building"
        if not shared:
            row.state, row.error = "failed", error.message


def _order(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def _runtime(row: RuntimeRow) -> Runtime:
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
