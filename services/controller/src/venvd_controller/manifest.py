"""The manifest: runtimes, venvs and backends that the controller brings up and keeps."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from sqlalchemy import select

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec, check_name, check_version
from venvd_controller.backends import Backends, spec_of
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, VenvRow
from venvd_controller.runtimes import Runtimes
from venvd_controller.venvs import Venvs, checked

log = logging.getLogger("venvd.controller")
T = TypeVar("T")


class Manifest:
    """A manifest that was read and checked.

    Raises:
        InvalidRequest: the file is missing or wrong; says in which entry and field.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = self._read()
        self.runtimes = [self._version(index, entry) for index, entry in enumerate(self._list(data, "runtimes"))]
        self.venvs = dict(self._named(data, "venvs", VenvSpec))
        backends = dict(self._named(data, "backends", BackendSpec))
        self.backends = {name: _with_name(name, spec) for name, spec in backends.items()}

    def _read(self) -> dict[str, Any]:
        try:
            data = yaml.safe_load(self.path.read_text())
        except OSError as error:
            raise InvalidRequest(f"the manifest {self.path} cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise InvalidRequest(f"the manifest {self.path} is not YAML: {error}") from None
        if data is None:
            return {}
        if not isinstance(data, dict) or set(data) - {"runtimes", "venvs", "backends"}:
            raise self._wrong("holds runtimes, venvs and backends, and nothing else")
        return data

    def _wrong(self, message: str) -> InvalidRequest:
        return InvalidRequest(f"the manifest {self.path} {message}")

    def _list(self, data: dict[str, Any], key: str) -> list[Any]:
        found = data.get(key) or []
        if not isinstance(found, list):
            raise self._wrong(f"has {key} that are no list")
        return found

    def _version(self, index: int, entry: Any) -> str:
        version = entry.get("version") if isinstance(entry, dict) else entry
        if not isinstance(version, str):
            raise self._wrong(f'has a version without quotes in runtimes[{index}]: write "3.13"')
        return check_version(version)

    def _named(self, data: dict[str, Any], key: str, kind: type[T]) -> list[tuple[str, T]]:
        found = []
        for index, entry in enumerate(self._list(data, key)):
            where = f"{key}[{index}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise self._wrong(f"has an entry without a name: {where}")
            name = check_name(key[:-1], entry["name"])
            found.append((name, self._record(where, kind, {k: v for k, v in entry.items() if k != "name"})))
        return found

    def _record(self, where: str, kind: type[T], entry: dict[str, Any]) -> T:
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(set(entry) - known):
            raise self._wrong(
                f"has unknown fields in {where}: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        if isinstance(entry.get("limits"), dict):
            entry = {**entry, "limits": BackendLimits(**entry["limits"])}
        try:
            return kind(**entry)
        except TypeError as error:
            raise self._wrong(f"is wrong in {where}: {error}") from None


def _with_name(name: str, spec: BackendSpec) -> BackendSpec:
    spec.name = name
    return spec


def apply(manifest: Manifest, database: Database, runtimes: Runtimes, venvs: Venvs, backends: Backends) -> None:
    """Bring the desired state to what the manifest says; only what a manifest declared is ever taken away."""
    for version in manifest.runtimes:
        runtimes.put(version, owned=True)
    for name, spec in manifest.venvs.items():
        venvs.put(name, checked(spec), owned=True)
    for name, backend in manifest.backends.items():
        _keep(name, backend, backends)
    with database() as session:
        gone = session.scalars(select(BackendRow.name).where(BackendRow.owned)).all()
        unused = session.scalars(select(VenvRow.name).where(VenvRow.owned)).all()
    for name in set(gone) - set(manifest.backends):
        backends.unwant(name)
    for name in set(unused) - set(manifest.venvs):
        try:
            venvs.delete(name)
        except VenvdError as error:
            log.info("kept: %s", error.message)


def _keep(name: str, spec: BackendSpec, backends: Backends) -> None:
    """Start a declared backend; one that is declared otherwise than it runs is started anew."""
    try:
        row = backends.row(name)
    except VenvdError:
        backends.start(spec, owned=True)
        return
    if asdict(spec_of(row)) != asdict(spec):
        backends.update(name, spec=asdict(spec), owned=True)
        backends.restart(name)
