"""Brings what runs to what is wanted, again and again, from what is there and not from what happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from venvd_contract.errors import NotFound, VenvdError
from venvd_controller import probes
from venvd_controller.backends import KIND, Backends
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow
from venvd_controller.operations import Operations
from venvd_engines.engine import BackendState, Engine, Handle, Owned

log = logging.getLogger("venvd.controller")

_PROBES_TO_FAIL = 3
"""Probes in a row without an answer before a backend counts as unhealthy."""


@dataclass
class Reconciler:
    """One loop in one thread; `wake` starts a turn at once."""

    database: Database
    engine: Engine
    operations: Operations
    backends: Backends
    interval: float
    stop_grace: float
    last_turn: float = 0.0
    """Unix time of the last whole turn."""
    errors: int = 0
    engine_error: str | None = None
    """Why the engine did not answer in the last turn."""
    _silent: dict[str, int] = field(default_factory=dict)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def wake(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self.turn()
            self._wake.wait(self.interval)

    def turn(self) -> None:
        """One turn; what fails is noted and tried again in the next."""
        try:
            self._bring_about()
        except VenvdError as error:
            self.errors += 1
            self.engine_error = error.message
        except Exception:
            self.errors += 1
            log.exception("a turn of the reconcile loop failed")
        else:
            self.engine_error = None
            self.last_turn = time.time()

    def _bring_about(self) -> None:
        # rows, engine, rows again: a launch that is begun meanwhile has its row in the second reading, and a backend
        # that changed between the two is left for the next turn
        before = {row.name: _version(row) for row in self._rows()}
        owned = {found.launch_id: found for found in self.engine.list_owned()}
        rows = self._rows()
        known = {row.launch for row in rows}
        for launch_id, found in owned.items():
            if launch_id not in known:
                log.info("destroying a launch that nobody wants: %s (%s)", found.name, launch_id)
                self.engine.destroy_owned(found)
        for row in rows:
            if before.get(row.name) != _version(row) or self.operations.active(KIND, row.name) is not None:
                continue
            try:
                self._one(row, owned.get(row.launch or ""))
            except NotFound:
                continue
            except VenvdError as error:
                self.errors += 1
                self.backends.update(row.name, error=error.message)

    def _rows(self) -> Sequence[BackendRow]:
        with self.database() as session:
            return session.scalars(select(BackendRow)).all()

    def _one(self, row: BackendRow, owned: Owned | None) -> None:
        if not row.wanted:
            self._remove(row, owned)
        elif row.state in {"running", "unhealthy"} and row.handle is not None:
            self._check(row, owned)
        elif row.state == "unhealthy" or (row.owned and row.state == "failed"):
            self._start_again(row)
        elif row.state in {"pending", "starting"}:
            self._submit(row)

    def _remove(self, row: BackendRow, owned: Owned | None) -> None:
        if row.handle is not None:
            handle = Handle(**row.handle)
            self.engine.stop(handle, self.stop_grace)
            self.engine.destroy(handle)
        elif owned is not None:
            self.engine.destroy_owned(owned)
        self.backends.forget(row.name)
        self._silent.pop(row.name, None)

    def _check(self, row: BackendRow, owned: Owned | None) -> None:
        assert row.handle is not None
        handle = Handle(**row.handle)
        state = self.engine.inspect(handle) if owned is not None else None
        if state is None or not state.running:
            told = _told(state)
            log.warning("%s: %s: starting it again", row.name, told)
            self.backends.update(row.name, state="unhealthy", error=told)
            self._start_again(row)
            return
        reason = probes.unready(handle.probe_url)
        self._silent[row.name] = self._silent.get(row.name, 0) + 1 if reason else 0
        if not reason and row.state != "running":
            self.backends.update(row.name, state="running", error=None)
        elif self._silent[row.name] == _PROBES_TO_FAIL:
            self.backends.update(row.name, state="unhealthy", error=reason)

    def _start_again(self, row: BackendRow) -> None:
        if time.time() < row.retry_at:
            return
        self._submit(row, restarts=row.restarts + 1 if row.started_at else row.restarts)

    def _submit(self, row: BackendRow, **values: object) -> None:
        """Have a backend started, unless somebody has just seen to it."""
        with self.backends.changing:
            if (
                self.operations.active(KIND, row.name) is None
                and self.backends.row(row.name).operation == row.operation
            ):
                operation = self.operations.submit(KIND, row.name)
                self.backends.update(row.name, operation=operation.id, **values)


def _version(row: BackendRow) -> tuple[object, ...]:
    """What changes whenever an operation or a caller does something with a backend."""
    return (row.launch, row.state, row.operation, row.wanted, row.failures)


def _told(state: BackendState | None) -> str:
    """Which part of a backend is gone, and how it ended where that is known."""
    if state is None:
        return "both its parts are gone"
    parts = {"the server": state.server, "the worker host": state.worker}
    gone = {name: part for name, part in parts.items() if part.state != "running"}
    return "; ".join(f"{name} is {part.state} {part.detail}".strip() for name, part in gone.items())
