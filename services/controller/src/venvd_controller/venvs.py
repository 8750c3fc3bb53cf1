"""Venvs: what was asked for, what it was locked to, and the image that came of it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, InUse, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Package, Venv, VenvSpec, check_name
from venvd_controller.absent import absent
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, VenvRow
from venvd_controller.images import Images
from venvd_controller.operations import Kind, Operations, Run
from venvd_controller.runtimes import Runtimes
from venvd_controller.shared import SharedWork
from venvd_controller.specs import checked_venv
from venvd_engines.engine import Engine, Image, Progress, VenvBuild

KIND = "venv.build"
_CANCEL_SECONDS = 30.0


@dataclass(frozen=True)
class Built:
    runtime: str
    lock: str
    image: Image


class Venvs:
    """Args: builds: how many builds run at a time; more of them wait in the phase `waiting`."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        operations: Operations,
        runtimes: Runtimes,
        images: Images,
        builds: int,
    ) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._runtimes = runtimes
        self._images = images
        self._slots = threading.Semaphore(builds)
        self._shared: SharedWork[Built] = SharedWork()
        self.on_built: Callable[[str, float], None] = _nobody
        """Told outcome and seconds of each build that ended."""
        operations.register(KIND, Kind(self._build_operation, _note_failure))

    def all(self, after: str | None = None, limit: int = 1000) -> Sequence[Venv]:
        query = select(VenvRow).where(VenvRow.name > (after or ""))
        with self._database.read() as session:
            return [_venv(row) for row in session.scalars(query.order_by(VenvRow.name).limit(limit))]

    def get(self, name: str) -> Venv:
        return _venv(self._row(name))

    def packages(self, name: str) -> list[Package]:
        """What is installed in a venv that was built."""
        return [Package(**item) for item in self._built(name)["packages"]]

    def lock(self, name: str) -> str:
        """The hash-pinned requirements file of a venv that was built."""
        self._built(name)
        return self._row(name).lock or ""

    def _built(self, name: str) -> dict[str, Any]:
        image = self._row(name).image
        if image is None:
            raise NotFound(f'the venv "{name}" is not built yet')
        return image

    def _row(self, name: str) -> VenvRow:
        with self._database.read() as session:
            return _found(session, name)

    def resume(self) -> None:
        """Build those that are wanted, not ready, and that nobody sees to."""
        with self._database.write() as session:
            for row in session.scalars(select(VenvRow).where(VenvRow.state.in_(("pending", "building")))):
                if self._operations.active(session, KIND, row.name) is None:
                    self.begin(session, row)

    # ---- changing ----

    def put(self, name: str, spec: VenvSpec, *, owned: bool = False) -> tuple[Venv, OperationInfo | None]:
        """Create or change a venv; where nothing is to be built, there is no operation.

        A build of something else is cancelled; one of just this goes on.
        """
        check_name("venv", name)
        spec = checked_venv(spec)
        with self._database.write() as session:
            row = session.get(VenvRow, name) or _new(session, name)
            before = _inputs(row)
            self._write(session, row, spec)
            row.owned = row.owned or owned
            if row.state == "ready":
                self._operations.cancel_active(session, KIND, name)
                return _venv(row), None
            active = self._operations.active(session, KIND, name)
            if active is not None and before == _inputs(row):
                return _venv(row), active
            operation = self.begin(session, row)
            return _venv(row), operation

    def _write(self, session: Session, row: VenvRow, spec: VenvSpec) -> None:
        """Note what is wanted; the state says whether that is there already."""
        fields = asdict(spec)
        kept = row.runtime if row.spec.get("python", "") is None else None
        runtime = spec.python or self._runtimes.chosen(session) or kept or self._runtimes.newest_ready(session)
        if row.spec != fields or row.runtime != runtime:
            row.updated_at = now()
        row.spec, row.runtime = fields, runtime
        if row.image is not None and row.inputs == _inputs(row):
            row.state, row.error = "ready", None
        elif row.state in {"ready", "failed"}:
            row.state, row.error = "pending", None

    def begin(self, session: Session, row: VenvRow) -> OperationInfo:
        """Queue the build of a venv, in place of one that waits or runs."""
        self._operations.cancel_active(session, KIND, row.name)
        operation = self._operations.submit(session, KIND, row.name)
        row.state, row.error, row.operation = "pending", None, operation.id
        return operation

    def add_default(self, session: Session) -> VenvRow:
        """The venv of those who name none: nothing in it, on the default runtime; built by who needs it."""
        row = _new(session, "default")
        self._write(session, row, VenvSpec())
        return row

    def delete(self, name: str) -> None:
        """Forget a venv that no backend uses, and its image where nothing else uses it."""
        with self._database.write() as session:
            row = _found(session, name)
            users = session.scalars(select(BackendRow.name).where(BackendRow.venv == name)).all()
            if users:
                raise InUse(f'the venv "{name}" is used by the backends {", ".join(sorted(users))}')
            cancelled = self._operations.cancel_active(session, KIND, name)
            key = row.image["key"] if row.image else None
            session.delete(row)
        if cancelled is not None:
            self._operations.wait(cancelled.id, _CANCEL_SECONDS)
        if key is not None:
            self._images.release(key)

    # ---- building ----

    def _build_operation(self, name: str, run: Run) -> None:
        self.ensure(name, run)

    def ensure(self, name: str, run: Progress) -> Image:
        """The image of a venv, built where it is not.

        Raises:
            VenvdError: why it cannot be built.
        """
        with self._images.using():
            while True:
                row = self._row(name)
                if row.state == "ready" and (image := self._engine.find_image(row.image["key"])) is not None:  # type: ignore[index]
                    return image
                built = self._build(row, run)
                if self._store(name, _inputs(row), built):
                    return built.image

    def _build(self, row: VenvRow, run: Progress) -> Built:
        inputs = _inputs(row)
        # an image that is gone is made again as it was
        lock = row.lock if row.inputs == inputs else None
        plan = _Plan(row.runtime, row.spec["requirements"], row.spec["aptPackages"], lock)

        def work(progress: Progress) -> Built:
            began, outcome, told = time.monotonic(), "failed", None
            self._mark(inputs, "building", None)
            try:
                built = self._make(plan, progress)
                outcome = "succeeded"
            except VenvdError as error:
                outcome, told = "cancelled" if isinstance(error, Cancelled) else "failed", error.message
                raise
            except Exception as error:
                told = f"a defect of the controller: {error!r}"
                raise
            finally:
                if told is not None:
                    self._mark(inputs, "failed", told)
                self.on_built(outcome, time.monotonic() - began)
            return built

        return self._shared.get(inputs, f"the build of {row.name}", work, run)

    def _make(self, plan: _Plan, progress: Progress) -> Built:
        while not self._slots.acquire(timeout=0.2):
            progress.phase("waiting")
            progress.check()
        try:
            ensure, newest = self._runtimes.ensure, self._runtimes.newest
            runtime = newest(progress) if plan.runtime is None else ensure(plan.runtime, progress)
            lock = plan.lock
            if lock is None:
                progress.phase("lock")
                lock = self._engine.lock(runtime, plan.requirements, progress)
            progress.phase("build")
            return Built(
                runtime.version, lock, self._engine.build(VenvBuild(runtime, lock, plan.apt_packages), progress)
            )
        finally:
            self._slots.release()

    def _mark(self, inputs: str, state: str, error: str | None) -> None:
        """Note how the build of these inputs stands in every venv that waits for it."""
        with self._database.write() as session:
            for row in session.scalars(select(VenvRow).where(VenvRow.state.in_(("pending", "building", "failed")))):
                if _inputs(row) == inputs:
                    row.state, row.error = state, error

    def _store(self, name: str, inputs: str, built: Built) -> bool:
        """Keep what was built; false where the venv has become another meanwhile."""
        image = {"key": built.image.key, "ref": built.image.ref, "python": built.image.python}
        packages = [asdict(package) for package in built.image.packages]
        with self._database.write() as session:
            self._images.built(session, built.image.key)
            row = _found(session, name)
            if _inputs(row) != inputs:
                return False
            row.runtime, row.lock, row.image = built.runtime, built.lock, {**image, "packages": packages}
            row.inputs = _inputs(row)
            row.state, row.error, row.updated_at = "ready", None, now()
        return True


def _nobody(_outcome: str, _seconds: float) -> None:
    """Told of what nobody measures."""


@dataclass(frozen=True)
class _Plan:
    runtime: str | None
    requirements: Sequence[str]
    apt_packages: Sequence[str]
    lock: str | None


def _inputs(row: VenvRow) -> str:
    """Digest of what a build is made from."""
    spec = row.spec
    parts = [row.runtime, spec.get("requirements"), spec.get("aptPackages")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _new(session: Session, name: str) -> VenvRow:
    row = VenvRow(name=name, created_at=now(), updated_at=now(), state="pending", spec={}, owned=False)
    session.add(row)
    return row


def _found(session: Session, name: str) -> VenvRow:
    row = session.get(VenvRow, name)
    if row is None:
        raise absent("venv", name, session.scalars(select(VenvRow.name)))
    return row


def _note_failure(session: Session, name: str, operation: str, error: VenvdError) -> None:
    row = session.get(VenvRow, name)
    if row is None or row.operation != operation or row.state not in {"pending", "building"}:
        return
    # a build that others still want goes on after one of its operations was cancelled
    if not (isinstance(error, Cancelled) and row.state == "building"):
        row.state, row.error = "failed", error.message


def _venv(row: VenvRow) -> Venv:
    image = row.image or {}
    return Venv(
        name=row.name,
        state=row.state,
        spec=VenvSpec(**row.spec),
        createdAt=row.created_at,
        updatedAt=row.updated_at,
        python=image.get("python"),
        key=image.get("key"),
        image=image.get("ref"),
        error=row.error,
        operation=row.operation,
    )
