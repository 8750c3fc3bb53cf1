"""Backends: what is wanted, and how the API tells of it."""

from __future__ import annotations

import re
import secrets
import threading
from dataclasses import asdict
from typing import Any

from sqlalchemy import select, update

from venvd_contract.errors import Conflict, Forbidden, InvalidRequest, NotFound
from venvd_contract.resources import (
    BACKEND_TYPES,
    Backend,
    BackendLimits,
    BackendSpec,
    OperationInfo,
    VenvSpec,
    check_name,
)
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow
from venvd_controller.home import Home
from venvd_controller.operations import Operations
from venvd_controller.settings import is_loopback
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Handle

KIND = "backend.start"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Backends:
    def __init__(self, database: Database, home: Home, engine_name: str, operations: Operations, venvs: Venvs) -> None:
        self._database = database
        self._home = home
        self._engine_name = engine_name
        self._operations = operations
        self._venvs = venvs
        self.changing = threading.Lock()
        """Held while a row and its operation change together, so that nobody sees the one without the other."""

    def all(self) -> list[Backend]:
        with self._database() as session:
            rows = session.scalars(select(BackendRow).order_by(BackendRow.created_at, BackendRow.name)).all()
        return [self._backend(row) for row in rows]

    def get(self, name: str) -> Backend:
        return self._backend(self.row(name))

    def row(self, name: str) -> BackendRow:
        """Raises `NotFound`."""
        with self._database() as session:
            row = session.get(BackendRow, name)
        if row is None:
            raise NotFound(f'no backend "{name[:80]}"')
        return row

    def handle(self, name: str) -> Handle:
        """Where a backend runs; `Conflict` while it does not."""
        row = self.row(name)
        if row.handle is None:
            raise Conflict(f'the backend "{name}" is {row.state}: it has nothing to tell yet')
        return Handle(**row.handle)

    def metrics_token(self, row: BackendRow) -> str:
        return self._home.derive("metrics", row.nonce)

    def token(self, row: BackendRow) -> str | None:
        """The token of its clients; None where it was asked to serve without."""
        return self._home.derive("backend", row.nonce) if row.spec["token"] else None

    # ---- changing ----

    def start(self, spec: BackendSpec, *, owned: bool = False) -> tuple[Backend, OperationInfo]:
        """Begin to start a new backend.

        Raises:
            InvalidRequest: a field is wrong.
            Forbidden: it would be open to the network without a token.
            NotFound: there is no such venv.
            Conflict: the name is taken.
        """
        _check(spec)
        self._ensure_venv(spec.venv)
        with self.changing:
            name = self._add(spec, owned=owned)
            operation = self._operations.submit(KIND, name)
            self.update(name, operation=operation.id)
        return self.get(name), operation

    def _ensure_venv(self, name: str) -> None:
        """The venv `default` is made where it is absent; any other must be there."""
        try:
            self._venvs.get(name)
        except NotFound:
            if name != "default":
                raise
            self._venvs.put("default", VenvSpec())

    def _add(self, spec: BackendSpec, *, owned: bool) -> str:
        with self._database.begin() as session:
            taken = set(session.scalars(select(BackendRow.name)))
            if spec.name is not None and spec.name in taken:
                raise Conflict(f'a backend "{spec.name}" exists already; delete it first, or take another name')
            name = spec.name or _free_name(f"{spec.venv}-{spec.type}", taken)
            session.add(
                BackendRow(
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
            )
        return name

    def restart(self, name: str) -> tuple[Backend, OperationInfo]:
        """Begin to restart a backend: the same URL and token, fresh sessions."""
        row = self.row(name)
        if not row.wanted:
            raise Conflict(f'the backend "{name}" is being removed')
        active = self._operations.active(KIND, name)
        if active is not None and row.state in {"pending", "starting"}:
            raise Conflict(f'the backend "{name}" is starting already (operation {active.id})')
        with self.changing:
            self.update(name, state="pending", retry_at=0.0, failures=0, error=None)
            operation = self._operations.submit(KIND, name)
            self.update(name, operation=operation.id)
        return self.get(name), operation

    def unwant(self, name: str) -> OperationInfo | None:
        """Note that a backend is to go; gives its running operation, cancelled."""
        self.row(name)
        self.update(name, wanted=False, state="stopping")
        active = self._operations.active(KIND, name)
        return self._operations.cancel(active.id) if active else None

    def update(self, name: str, **values: object) -> None:
        with self._database.begin() as session:
            session.execute(update(BackendRow).where(BackendRow.name == name).values(**values))

    def forget(self, name: str) -> None:
        with self._database.begin() as session:
            row = session.get(BackendRow, name)
            if row is not None:
                session.delete(row)

    def _backend(self, row: BackendRow) -> Backend:
        return Backend(
            name=row.name,
            type=row.spec["type"],
            venv=row.venv,
            state=row.state,
            spec=spec_of(row),
            engine=self._engine_name,
            createdAt=row.created_at,
            url=row.handle["url"] if row.handle else None,
            token=self.token(row),
            python=row.python,
            key=row.key,
            startedAt=row.started_at,
            restarts=row.restarts,
            error=row.error,
            operation=row.operation,
        )


def spec_of(row: BackendRow) -> BackendSpec:
    fields: dict[str, Any] = dict(row.spec)
    return BackendSpec(**{**fields, "limits": BackendLimits(**fields["limits"])})


def _free_name(wanted: str, taken: set[str]) -> str:
    base = wanted[:58].rstrip("-")
    if base not in taken:
        return base
    return next(name for number in range(2, 10_000) if (name := f"{base}-{number}") not in taken)


def _check(spec: BackendSpec) -> None:
    if spec.type not in BACKEND_TYPES:
        raise InvalidRequest(f'"{spec.type[:40]}" is no type of backend: {", ".join(BACKEND_TYPES)}')
    if spec.name is not None:
        check_name("backend", spec.name)
    check_name("venv", spec.venv)
    if spec.port is not None:
        _check_port(spec)
    for field, value in asdict(spec.limits).items():
        if value is not None and value <= 0:
            raise InvalidRequest(f"limits.{field} must be more than 0, not {value}")
    for name in spec.env:
        if not _ENV_NAME.fullmatch(name) or name.startswith("VENVD_"):
            raise InvalidRequest(f'env: "{name[:80]}" is no name for a variable of user code')
    if not spec.token and spec.type != "pipe" and not is_loopback(spec.host):
        raise Forbidden(f"a backend without a token is served on loopback or a socket only, not on {spec.host}")


def _check_port(spec: BackendSpec) -> None:
    assert spec.port is not None
    if spec.type == "pipe":
        raise InvalidRequest("a pipe backend has no port: it is reached by its socket")
    if not 1 <= spec.port <= 65535:
        raise InvalidRequest(f"port must be 1 to 65535, not {spec.port}")
