"""Runtimes: CPythons that were asked for and what they resolved to."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sqlalchemy import select, update

from venvd_contract.errors import Cancelled, InUse, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Runtime, check_version
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import RuntimeRow, VenvRow
from venvd_controller.operations import Operations, Run
from venvd_engines.engine import Engine, RuntimeRef

NEWEST = ("3.14", "3.13", "3.12", "3.11")
"""Tried in this order where nobody chose a default."""
KIND = "runtime.init"


class Runtimes:
    def __init__(self, database: Database, engine: Engine, operations: Operations) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._changing = threading.Lock()
        """Held while a row is made, and while it and its operation change together."""
        operations.register(KIND, self._init)

    def all(self) -> list[Runtime]:
        with self._database() as session:
            return [_runtime(row) for row in session.scalars(select(RuntimeRow).order_by(RuntimeRow.version))]

    def get(self, version: str) -> Runtime:
        with self._database() as session:
            row = session.get(RuntimeRow, version)
        if row is None:
            raise NotFound(f'no runtime "{version[:40]}"')
        return _runtime(row)

    def put(self, version: str, *, owned: bool = False) -> tuple[Runtime, OperationInfo | None]:
        """Ask for a runtime; nothing to do where it is ready."""
        check_version(version)
        self._add(version, owned=owned)
        with self._changing:
            found = self.get(version)
            if found.state == "ready":
                return found, None
            operation = self._operations.active(KIND, version)
            if operation is None:
                self._update(version, state="pending", error=None)
                operation = self._operations.submit(KIND, version)
            self._update(version, operation=operation.id)
        return self.get(version), operation

    def _add(self, version: str, *, owned: bool) -> None:
        with self._changing, self._database.begin() as session:
            row = session.get(RuntimeRow, version)
            if row is None:
                session.add(
                    RuntimeRow(version=version, state="pending", is_default=False, created_at=now(), owned=owned)
                )

    def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name none; it is initialised where it is not."""
        self.put(version)
        with self._database.begin() as session:
            session.execute(update(RuntimeRow).values(is_default=False))
            session.get_one(RuntimeRow, version).is_default = True
        return self.get(version)

    def delete(self, version: str) -> None:
        """Forget a runtime that no venv uses."""
        self.get(version)
        with self._database.begin() as session:
            users = session.scalars(select(VenvRow.name).where(VenvRow.runtime == version).order_by(VenvRow.name)).all()
            if users:
                raise InUse(f"runtime {version} is used by the venvs {', '.join(users)}")
            session.delete(session.get_one(RuntimeRow, version))

    def default_version(self, run: Run | None = None) -> str:
        """The version of venvs that name none: what was chosen, else the newest that there is."""
        with self._database() as session:
            rows = session.scalars(select(RuntimeRow)).all()
        chosen = [row.version for row in rows if row.is_default]
        ready = [row.version for row in rows if row.state == "ready"]
        if chosen or ready:
            return max(chosen or ready, key=_order)
        return self._first_that_resolves(NEWEST, run)

    def _first_that_resolves(self, versions: Iterable[str], run: Run | None) -> str:
        progress = run or _Silent()
        last: VenvdError | None = None
        for version in versions:
            try:
                self._engine.resolve(version, progress)
            except NotFound as error:
                last = error
            else:
                return version
        raise last or NotFound("there is no CPython")

    def ensure(self, version: str, run: Run) -> RuntimeRef:
        """The runtime, initialised where it is not: for work that needs it."""
        self._add(version, owned=False)
        found = self.get(version)
        if found.state != "ready" or not found.base or not found.resolvedVersion:
            run.phase("runtime")
            return self._resolve(version, run)
        return RuntimeRef(version, found.resolvedVersion, found.base)

    def _init(self, version: str, run: Run) -> None:
        run.phase("resolve")
        self._resolve(version, run)

    def _resolve(self, version: str, run: Run) -> RuntimeRef:
        self._update(version, state="building", error=None)
        try:
            found = self._engine.resolve(version, run)
        except VenvdError as error:
            state = "pending" if isinstance(error, Cancelled) else "failed"
            self._update(version, state=state, error=error.message)
            raise
        self._update(version, state="ready", error=None, resolved=found.resolved, base=found.base)
        return found

    def _update(self, version: str, **values: object) -> None:
        with self._database.begin() as session:
            session.execute(update(RuntimeRow).where(RuntimeRow.version == version).values(**values))


class _Silent:
    """Progress that nobody follows."""

    def phase(self, name: str) -> None:
        del name

    def log(self, line: str) -> None:
        del line

    def check(self) -> None:
        return


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
