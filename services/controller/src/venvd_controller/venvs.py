"""Venvs: what was asked for, what it was locked to, and the image that came of it."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select, update

from venvd_contract.errors import Cancelled, InUse, InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import OperationInfo, Package, Venv, VenvSpec, check_name, check_version
from venvd_controller.clock import now
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, VenvRow
from venvd_controller.operations import Operations, Run
from venvd_controller.runtimes import Runtimes
from venvd_engines import requirements
from venvd_engines.engine import Engine, Image, VenvBuild

KIND = "venv.build"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Venvs:
    def __init__(self, database: Database, engine: Engine, operations: Operations, runtimes: Runtimes) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._runtimes = runtimes
        self.on_built: Callable[[str, float], None] = _nobody
        """Told outcome and seconds of each build that ended."""
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._changing = threading.Lock()
        """Held while what is wanted and its operation change together."""
        operations.register(KIND, self._build_operation)

    def all(self) -> list[Venv]:
        with self._database() as session:
            return [_venv(row) for row in session.scalars(select(VenvRow).order_by(VenvRow.name))]

    def get(self, name: str) -> Venv:
        return _venv(self._row(name))

    def packages(self, name: str) -> list[Package]:
        """What is installed in a venv that was built."""
        return [Package(**item) for item in self._image_fields(name)["packages"]]

    def lock(self, name: str) -> str:
        """The hash-pinned requirements file of a venv that was built."""
        self._image_fields(name)
        return self._row(name).lock or ""

    def _image_fields(self, name: str) -> dict[str, Any]:
        image = self._row(name).image
        if image is None:
            raise NotFound(f'the venv "{name}" is not built yet')
        return image

    def _row(self, name: str) -> VenvRow:
        with self._database() as session:
            row = session.get(VenvRow, name)
        if row is None:
            raise NotFound(f'no venv "{name[:80]}"')
        return row

    # ---- changing ----

    def put(self, name: str, spec: VenvSpec, *, owned: bool = False) -> tuple[Venv, OperationInfo | None]:
        """Create or change a venv; where nothing is to be built, there is no operation."""
        check_name("venv", name)
        spec = checked(spec)
        version = spec.python or self._runtimes.default_version()
        with self._changing:
            same, ready = self._write(name, spec, version, owned=owned)
            active = self._operations.active(KIND, name)
            if same and (ready or active is not None):
                return self.get(name), active
            if active is not None:
                self._operations.cancel(active.id)
            operation = self._operations.submit(KIND, name)
            self._update(name, operation=operation.id)
        return self.get(name), operation

    def _write(self, name: str, spec: VenvSpec, version: str, *, owned: bool) -> tuple[bool, bool]:
        """Note what is wanted: whether that is what was wanted before, and whether it is built."""
        with self._database.begin() as session:
            row = session.get(VenvRow, name)
            if row is None:
                row = VenvRow(name=name, created_at=now(), state="pending", spec={}, owned=owned)
                session.add(row)
            same = _built_from(row.spec, row.runtime) == _built_from(asdict(spec), version)
            if row.spec != asdict(spec):
                row.updated_at = now()
            row.spec, row.runtime = asdict(spec), version
            if not same or row.state == "failed":
                row.state, row.error = "pending", None
            return same, row.state == "ready"

    def delete(self, name: str) -> None:
        """Forget a venv that no backend uses, and its image where no other venv shares it."""
        row = self._row(name)
        with self._database.begin() as session:
            users = session.scalars(select(BackendRow.name).where(BackendRow.venv == name)).all()
            if users:
                raise InUse(f'the venv "{name}" is used by the backends {", ".join(sorted(users))}')
        active = self._operations.active(KIND, name)
        if active is not None:
            self._operations.cancel(active.id)
            self._operations.wait(active.id, 30)
        with self._database.begin() as session:
            session.delete(session.get_one(VenvRow, name))
            shared = [other.name for other in session.scalars(select(VenvRow)) if _key(other) == _key(row)]
        key = _key(row)
        if key and not shared:
            self._engine.remove_image(key)

    # ---- building ----

    def ensure(self, name: str, run: Run) -> Image:
        """The image of a venv, built where it is not: one build of a venv at a time."""
        lock = self._locks[name]
        while not lock.acquire(timeout=0.2):
            run.check()
        try:
            row = self._row(name)
            image = _image(row)
            if row.state == "ready" and image is not None and self._engine.find_image(image.key) is not None:
                return image
            return self._build(row, run)
        finally:
            lock.release()

    def _build_operation(self, name: str, run: Run) -> None:
        self.ensure(name, run)

    def _build(self, row: VenvRow, run: Run) -> Image:
        began, outcome = time.monotonic(), "failed"
        try:
            image = self._build_it(row, run)
            outcome = "succeeded"
        except Cancelled:
            outcome = "cancelled"
            raise
        finally:
            self.on_built(outcome, time.monotonic() - began)
        return image

    def _build_it(self, row: VenvRow, run: Run) -> Image:
        self._update(row.name, state="building", error=None)
        try:
            runtime = self._runtimes.ensure(row.runtime, run)
            run.phase("lock")
            lock = self._engine.lock(runtime, row.spec["requirements"], run)
            image = self._engine.build(VenvBuild(runtime, lock, row.spec["aptPackages"]), run)
        except VenvdError as error:
            state = "pending" if isinstance(error, Cancelled) else "failed"
            self._update(row.name, state=state, error=error.message)
            raise
        fields = {"key": image.key, "ref": image.ref, "python": image.python}
        packages = [asdict(package) for package in image.packages]
        self._update(row.name, state="ready", error=None, lock=lock, image={**fields, "packages": packages})
        return image

    def _update(self, name: str, **values: object) -> None:
        with self._database.begin() as session:
            session.execute(update(VenvRow).where(VenvRow.name == name).values(updated_at=now(), **values))


def _nobody(_outcome: str, _seconds: float) -> None:
    """Told of what nobody measures."""


def checked(spec: VenvSpec) -> VenvSpec:
    """A specification whose every field is right, requirements in their canonical form.

    Raises:
        InvalidRequest: says which field, and what would be right.
    """
    if spec.python is not None:
        check_version(spec.python)
    requirements.check_apt(spec.aptPackages)
    requirements.check_modules(spec.preload)
    for name in spec.env:
        if not _ENV_NAME.fullmatch(name) or name.startswith("VENVD_"):
            raise InvalidRequest(f'env: "{name[:80]}" is no name for a variable of user code')
    return replace(spec, requirements=requirements.check(spec.requirements))


def provider_name(provider: str, model: str | None) -> str:
    """The stable name of a provider's venv: a DNS label made of both."""
    text = "-".join(part for part in (provider, model) if part)
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label:
        raise InvalidRequest(f'"{text[:80]}" names no provider: letters or digits are needed')
    return f"provider-{label}"[:63].rstrip("-")


def _built_from(spec: dict[str, Any], version: str | None) -> tuple[Any, ...]:
    return (version, spec.get("requirements"), sorted(spec.get("aptPackages") or []))


def _key(row: VenvRow) -> str | None:
    return str(row.image["key"]) if row.image else None


def _image(row: VenvRow) -> Image | None:
    if row.image is None:
        return None
    packages = [Package(**item) for item in row.image["packages"]]
    return Image(row.image["key"], row.image["ref"], row.image["python"], packages)


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
