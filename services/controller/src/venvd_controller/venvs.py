"""Venvs: the specification of each, its lock, and the image that is built from them."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import Cancelled, Conflict, InUse, InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Package, Venv, VenvSpec, check_name
from venvd_controller.callers import Visible, match_names
from venvd_controller.clock import now
from venvd_controller.database import Database, get_row
from venvd_controller.database.tables import LaunchRow, VenvRow
from venvd_controller.dotnet import add_requirements
from venvd_controller.host_paths import HostPaths
from venvd_controller.images import Images
from venvd_controller.operations import OperationKind, Operations, Run
from venvd_controller.runtimes import Runtimes
from venvd_controller.secret_store import remove_secrets
from venvd_controller.semaphores import acquire
from venvd_controller.single_flight import SingleFlight
from venvd_controller.specs import check_venv
from venvd_engines import locking, requirements
from venvd_engines.engine import Engine, Image, Progress, RuntimeRef, VenvBuild
from venvd_engines.pyproject import RequiresPython

KIND = "venv.build"
_UPGRADE = "upgrade"
"""The field of a venv's image that names the upgrade while its lock is to be resolved again."""
_CANCEL_SECONDS = 30.0


@dataclass(frozen=True)
class Build:
    """A build that succeeded."""

    runtime: str | None
    """None for a virtual environment of the host."""
    lock: str
    image: Image


class Venvs:
    """All venvs.

    Args:
        max_builds: how many builds run at a time; further builds wait in the phase `waiting`.

    Attributes:
        on_build_end: functions called with outcome and seconds of each build.
    """

    def __init__(
        self,
        database: Database,
        engine: Engine,
        operations: Operations,
        runtimes: Runtimes,
        images: Images,
        max_builds: int,
        host_paths: HostPaths,
    ) -> None:
        self.host_paths = host_paths
        self._database = database
        self._engine = engine
        self._operations = operations
        self._runtimes = runtimes
        self._images = images
        self._slots = threading.Semaphore(max_builds)
        self._builds: SingleFlight[Build] = SingleFlight()
        self.on_build_end: list[Callable[[str, float], None]] = []
        operations.register(KIND, OperationKind(self._run_build, _record_failure))

    def list_all(self, after: str | None = None, limit: int = 1000, visible: Visible | None = None) -> Sequence[Venv]:
        query = select(VenvRow).where(VenvRow.name > (after or ""))
        if visible is not None:
            query = query.where(match_names(VenvRow.name, visible.venvs))
        with self._database.read() as session:
            return [_to_resource(row) for row in session.scalars(query.order_by(VenvRow.name).limit(limit))]

    def get(self, name: str) -> Venv:
        return _to_resource(self._get_row(name))

    def find_spec(self, name: str) -> VenvSpec | None:
        """Return the specification of a venv, if the venv exists."""
        with self._database.read() as session:
            row = session.get(VenvRow, name)
        return VenvSpec(**row.spec) if row is not None else None

    def list_packages(self, name: str) -> list[Package]:
        """List the installed packages of a venv that is built."""
        return [Package(**package) for package in self._get_image(name)["packages"]]

    def get_lock(self, name: str) -> str:
        """Return the hash-pinned requirements file of a venv that is built."""
        self._get_image(name)
        return self._get_row(name).lock or ""

    def get_built_image(self, name: str) -> Image:
        """Return the image of a venv that is ready, without building anything.

        Raises:
            Conflict: the venv is not ready, or its image is gone.
        """
        row = self._get_row(name)
        image = None if row.image is None else self._engine.find_image(row.image["key"])
        if row.state != "ready" or image is None:
            known = f": {row.error}" if row.error else ""
            missing = (
                "ready, but its image is gone: start a backend of it, or create it again"
                if row.state == "ready"
                else row.state
            )
            raise Conflict(f'the venv "{name}" is {missing}{known}')
        return image

    def _get_image(self, name: str) -> dict[str, Any]:
        image = self._get_row(name).image
        if image is None:
            raise NotFound(f'the venv "{name}" is not built yet')
        return image

    def _get_row(self, name: str) -> VenvRow:
        with self._database.read() as session:
            return get_row(session, VenvRow, "venv", name)

    def resume(self) -> None:
        """Queue the builds of venvs that are not ready and have no operation."""
        with self._database.write() as session:
            for row in session.scalars(select(VenvRow).where(VenvRow.state.in_(("pending", "building")))):
                if self._operations.find_active(session, KIND, row.name) is None:
                    self._queue_build(session, row)

    # ---- commands ----

    def put(
        self, name: str, spec: VenvSpec, *, declared: bool = False, upgrade: bool = False
    ) -> tuple[Venv, OperationInfo | None]:
        """Create or change a venv; see `change`."""
        check_name("venv", name)
        return self.change(name, lambda _: spec, declared=declared, upgrade=upgrade)

    def change(
        self, name: str, choose: Callable[[VenvSpec | None], VenvSpec], *, declared: bool = False, upgrade: bool = False
    ) -> tuple[Venv, OperationInfo | None]:
        """Create or change a venv. The operation is None if there is nothing to build.

        A build of the same inputs continues. A build of other inputs is cancelled. With `upgrade`, the lock is resolved
        again. If that fails, the venv stays as it was.

        Args:
            name: the name of the venv.
            choose: returns the specification to write, from the stored one; nothing changes the venv in between.
            declared: whether the manifest declares the venv.
            upgrade: whether to resolve the lock again.
        """
        check_name("venv", name)
        with self._database.write() as session:
            row = session.get(VenvRow, name)
            spec = check_venv(choose(None if row is None else VenvSpec(**row.spec)), self.host_paths)
            if upgrade and spec.lock is not None:
                raise InvalidRequest("the venv has a lock of its own, which only another one replaces")
            row = row or _add_row(session, name)
            row.unused_since = None
            build_before = _identify_build(row)
            operation = self._operations.find_joinable(session, KIND, name)
            if upgrade and row.image is not None and (operation is None or not _is_upgrade(row)):
                row.image = {**row.image, _UPGRADE: secrets.token_hex(8)}
            self._write_spec(session, row, spec)
            row.declared = row.declared or declared
            if row.state == "ready":
                self._operations.cancel_active(session, KIND, name)
                return _to_resource(row), None
            if operation is None or build_before != _identify_build(row):
                operation = self._queue_build(session, row)
            return _to_resource(row), operation

    def _write_spec(self, session: Session, row: VenvRow, spec: VenvSpec) -> None:
        """Write the specification. If the image of the venv has these inputs already, the venv is ready."""
        fields = asdict(spec)
        earlier_choice = row.runtime if row.spec.get("python", "") is None else None
        runtime = None if spec.path is not None else spec.python or self._choose_runtime(session, spec, earlier_choice)
        if row.spec != fields or row.runtime != runtime:
            row.updated_at = now()
        row.spec, row.runtime = fields, runtime
        if row.image is not None and not _is_upgrade(row) and row.inputs == _digest_inputs(row):
            row.state, row.error = "ready", None
        elif row.state in {"ready", "failed"}:
            row.state, row.error = "pending", None

    def _choose_runtime(self, session: Session, spec: VenvSpec, earlier_choice: str | None) -> str | None:
        """Choose the runtime of a venv that names none. None leaves the choice to the build."""
        needed = _get_needed_python(spec.requiresPython)
        order = [self._runtimes.find_default(session), earlier_choice, *self._runtimes.list_ready(session)]
        return next((version for version in order if version and needed.allows(version)), None)

    def _queue_build(self, session: Session, row: VenvRow) -> OperationInfo:
        """Cancel the build of a venv that is queued or running, and queue a new one."""
        self._operations.cancel_active(session, KIND, row.name)
        operation = self._operations.submit(session, KIND, row.name, row.name)
        row.state, row.error, row.operation = "pending", None, operation.id
        return operation

    def add_default(self, session: Session) -> VenvRow:
        """Add the venv `default`, empty and on the default runtime. The first start of a backend builds it."""
        row = _add_row(session, "default")
        self._write_spec(session, row, VenvSpec())
        return row

    def delete(self, name: str) -> None:
        """Delete a venv that no backend uses, and its image if nothing else uses it."""
        with self._database.write() as session:
            row = get_row(session, VenvRow, "venv", name)
            query = select(LaunchRow.name).where(LaunchRow.venv == name, LaunchRow.replica == 0)
            backend_names = session.scalars(query).all()
            if backend_names:
                raise InUse(f'the venv "{name}" is used by the backends {", ".join(sorted(backend_names))}')
            cancelled_build = self._operations.cancel_active(session, KIND, name)
            key = row.image["key"] if row.image else None
            remove_secrets(session, "venv", name)
            session.delete(row)
        if cancelled_build is not None:
            self._operations.wait(cancelled_build.id, _CANCEL_SECONDS)
        if key is not None:
            self._images.remove_if_unused(key)

    # ---- builds ----

    def _run_build(self, name: str, run: Run) -> None:
        self._ensure(name, run)

    def ensure(self, name: str, progress: Progress) -> Image:
        """Return the image of a venv, and build it if necessary. If an upgrade fails, return the earlier image.

        Raises:
            VenvdError: the venv cannot be built.
        """
        upgrading = _is_upgrade(self._get_row(name))
        try:
            return self._ensure(name, progress)
        except VenvdError as error:
            if isinstance(error, Cancelled) or not upgrading:
                raise
            progress.log(f"the upgrade failed: {error.message}")
        return self._ensure(name, progress)

    def _ensure(self, name: str, progress: Progress) -> Image:
        with self._images.hold():
            while True:
                row = self._get_row(name)
                if row.state == "ready" and row.image is not None:
                    image = self._engine.find_image(row.image["key"])
                    if image is not None:
                        return image
                identity = _identify_build(row)
                build = self._builds.run(identity, f"the build of {name}", partial(self._build, row), progress)
                if self._store(name, identity, build):
                    return build.image

    def _build(self, row: VenvRow, progress: Progress) -> Build:
        """Build the inputs of `row`, and write state and outcome to every venv that waits for the same build."""
        identity = _identify_build(row)
        started_at, outcome, message = time.monotonic(), "failed", None
        self._set_state(identity, "building", None)
        try:
            build = self._lock_and_build(row, progress)
            outcome = "succeeded"
        except VenvdError as error:
            outcome, message = "cancelled" if isinstance(error, Cancelled) else "failed", error.message
            raise
        except Exception as error:
            message = f"a defect of the controller: {error!r}"
            raise
        finally:
            if message is not None:
                self._set_state(identity, "failed", message)
            for callback in self.on_build_end:
                callback(outcome, time.monotonic() - started_at)
        return build

    def _lock_and_build(self, row: VenvRow, progress: Progress) -> Build:
        acquire(self._slots, progress)
        try:
            if row.spec.get("path"):
                folder = Path(self.host_paths.check_again("path", row.spec["path"]))
                return Build(None, "", self._engine.adopt(folder, row.spec.get("checks", ()), progress))
            if row.runtime is None:
                needed = _get_needed_python(row.spec.get("requiresPython"))
                runtime = self._runtimes.ensure_newest(progress, needed)
            else:
                runtime = self._runtimes.ensure(row.runtime, progress)
            lock = self._find_lock(row, runtime, progress)
            progress.phase("build")
            checks = row.spec.get("checks", ())
            image = self._engine.build(
                VenvBuild(runtime, lock, row.spec["aptPackages"], checks, row.spec.get("dotnet", False)), progress
            )
            return Build(runtime.version, lock, image)
        finally:
            self._slots.release()

    def _find_lock(self, row: VenvRow, runtime: RuntimeRef, progress: Progress) -> str:
        """Return the lock that the venv brings, or that of its last build if it still fits, or a new one."""
        lines = add_requirements(row.spec["requirements"], row.spec.get("dotnet", False))
        if row.spec.get("lock"):
            lock = locking.select(row.spec["lock"], runtime.resolved)
            self._check_extras(lock, lines, runtime, progress)
            return lock
        if row.lock is not None and not _is_upgrade(row):
            locked = (row.image or {}).get("locked")
            # the same lock serves to build a missing image again, or an image with other apt packages or checks
            if locked == _digest_lock_inputs(row) or row.inputs == _digest_inputs(row):
                return row.lock
        progress.phase("lock")
        return self._engine.lock(runtime, lines, progress, row.spec.get("constraints", ()))

    def _check_extras(self, lock: str, lines: Sequence[str], runtime: RuntimeRef, progress: Progress) -> None:
        """Check that a lock of a client has what the extras of the requirements need. Only an index knows that.

        Raises:
            InvalidRequest: packages are missing; the message names them.
        """
        with_extras = requirements.list_with_extras(lines)
        if not with_extras:
            return
        progress.phase("lock")
        pins = locking.pins(lock)
        needed = self._engine.lock(
            runtime, with_extras, progress, [f"{name}=={version}" for name, version in pins.items()]
        )
        missing = sorted(locking.pins(needed).keys() - pins.keys())
        if missing:
            raise InvalidRequest(
                f"lock: it lacks {', '.join(missing)}, which {', '.join(with_extras)} needs: make it from these"
            )

    def _set_state(self, identity: str, state: str, error: str | None) -> None:
        """Write the state of a build to every venv that waits for it."""
        with self._database.write() as session:
            for row in session.scalars(select(VenvRow).where(VenvRow.state.in_(("pending", "building", "failed")))):
                if _identify_build(row) == identity:
                    row.state, row.error = state, error
                    if state == "failed":
                        _undo_upgrade(row)

    def _store(self, name: str, identity: str, build: Build) -> bool:
        """Write a build to the row of a venv. Return False if the venv by now waits for another build."""
        image = {"key": build.image.key, "ref": build.image.ref, "python": build.image.python}
        packages = [asdict(package) for package in build.image.packages]
        with self._database.write() as session:
            self._images.record_build(session, build.image.key)
            row = get_row(session, VenvRow, "venv", name)
            if _identify_build(row) != identity:
                return False
            row.runtime, row.lock = build.runtime, build.lock
            row.image = {**image, "packages": packages, "locked": _digest_lock_inputs(row)}
            row.inputs = _digest_inputs(row)
            row.state, row.error, row.updated_at = "ready", None, now()
        return True


def _get_needed_python(text: str | None) -> RequiresPython:
    return RequiresPython(text or "")


def _identify_build(row: VenvRow) -> str:
    """Return the identity of the build for which a venv waits: its inputs, and the upgrade if it is one."""
    upgrade = row.image.get(_UPGRADE) if row.image is not None else None
    return f"{upgrade or ''}:{_digest_inputs(row)}"


def _digest_inputs(row: VenvRow) -> str:
    """Return a digest of the inputs of a build: runtime, requirements, Debian packages, constraints, lock, checks."""
    return _digest([row.runtime, row.spec.get("requirements"), row.spec.get("aptPackages")], row, _NEWER_INPUTS)


def _digest_lock_inputs(row: VenvRow) -> str:
    """Return a digest of the inputs of a lock, or of the lock that the client brought."""
    return _digest([row.runtime, row.spec.get("requirements")], row, ("constraints", "dotnet", "lock"))


_NEWER_INPUTS = ("constraints", "lock", "checks", "dotnet", "path")
"""Inputs that count only if they are given, so that the digests of earlier versions stay the same."""


def _digest(inputs: list[Any], row: VenvRow, newer: Sequence[str]) -> str:
    given = {name: row.spec[name] for name in newer if row.spec.get(name)}
    return hashlib.sha256(json.dumps([*inputs, *([given] if given else [])]).encode()).hexdigest()


def _is_upgrade(row: VenvRow) -> bool:
    return row.image is not None and _UPGRADE in row.image


def _undo_upgrade(row: VenvRow) -> None:
    """Keep the image of a venv whose lock could not be resolved again; its `error` says why."""
    if row.image is not None and _is_upgrade(row):
        row.image = {name: value for name, value in row.image.items() if name != _UPGRADE}
        if row.inputs == _digest_inputs(row):
            row.state, row.error = "ready", f"the upgrade failed, and the venv is as it was: {row.error}"


def _add_row(session: Session, name: str) -> VenvRow:
    row = VenvRow(name=name, created_at=now(), updated_at=now(), state="pending", spec={}, declared=False)
    session.add(row)
    return row


def _record_failure(session: Session, name: str, operation: str, error: VenvdError) -> None:
    row = session.get(VenvRow, name)
    if row is None or row.operation != operation or row.state not in {"pending", "building"}:
        return
    # a cancelled operation does not end a build for which another operation waits
    goes_on = isinstance(error, Cancelled) and row.state == "building"
    if not goes_on:
        row.state, row.error = "failed", error.message
        _undo_upgrade(row)


def _to_resource(row: VenvRow) -> Venv:
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
