"""Keeps what the manifest declares: brought up, changed with the file, stopped when no longer named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from venvd_contract.errors import InUse, InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import BackendSpec
from venvd_controller import manifest
from venvd_controller.backends import Backends
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, RuntimeRow, VenvRow
from venvd_controller.manifest import Manifest
from venvd_controller.runtimes import Runtimes
from venvd_controller.venvs import Venvs

log = logging.getLogger("venvd.controller")

DEFAULT = Path("venvd.yaml")


class Upkeep:
    """Args: path: the file that is named, which must be there; None is `venvd.yaml` where that is there.

    Raises:
        InvalidRequest: the manifest is missing or wrong.
    """

    def __init__(
        self, path: Path | None, database: Database, runtimes: Runtimes, venvs: Venvs, backends: Backends
    ) -> None:
        self._path = (path or DEFAULT).absolute()
        self._database = database
        self._runtimes = runtimes
        self._venvs = venvs
        self._backends = backends
        self._seen = self._stamp()
        self._manifest = self._read() if path is not None or self._seen is not None else None
        self.problem: str | None = None
        """What is wrong with the file as it is now, where the one before it is kept."""

    @property
    def path(self) -> Path | None:
        return self._path if self._manifest is not None else None

    def _read(self) -> Manifest:
        declared = manifest.read(self._path, self._backends.run_dir)
        with self._database.read() as session:
            there = {"default", *declared.venvs, *session.scalars(select(VenvRow.name))}
        for name, spec in declared.backends.items():
            if spec.venv not in there:
                raise InvalidRequest(
                    f'the manifest {self._path}: the backend "{name}" is for a venv "{spec.venv}", '
                    "which is neither declared nor there"
                )
        return declared

    def apply(self) -> None:
        """Bring the desired state to what the manifest says. Without a manifest nothing is touched."""
        if self._manifest is None:
            return
        declared = self._manifest
        for version in declared.runtimes:
            self._runtimes.put(version, owned=True)
        for name, spec in declared.venvs.items():
            self._venvs.put(name, spec, owned=True)
        for name, backend in declared.backends.items():
            self._keep(name, backend)
        self._let_go(declared)

    def _keep(self, name: str, spec: BackendSpec) -> None:
        try:
            self._backends.row(name)
        except NotFound:
            self._backends.start(spec, owned=True)
        else:
            self._backends.respecify(spec)

    def _let_go(self, declared: Manifest) -> None:
        """Backends that are no longer named are stopped; venvs and runtimes go once nothing uses them."""
        with self._database.read() as session:
            backends = session.scalars(select(BackendRow.name).where(BackendRow.owned, BackendRow.wanted)).all()
        for name in set(backends) - set(declared.backends):
            self._backends.unwant(name)

    # ---- in every turn of the reconcile loop ----

    def turn(self) -> None:
        """See to a file that changed, to what is no longer named, and to backends whose venv was built anew."""
        if self._manifest is None:
            return
        self._reload()
        declared = self._manifest
        with self._database.read() as session:
            backends = set(session.scalars(select(BackendRow.name)))
            venvs = set(session.scalars(select(VenvRow.name).where(VenvRow.owned)))
            runtimes = set(session.scalars(select(RuntimeRow.version).where(RuntimeRow.owned)))
        if set(declared.backends) - backends or set(declared.venvs) - venvs or set(declared.runtimes) - runtimes:
            self.apply()
        for name in venvs - set(declared.venvs):
            self._drop(self._venvs.delete, name)
        for version in runtimes - set(declared.runtimes):
            self._drop(self._runtimes.delete, version)
        self._renew()

    def _reload(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._manifest = self._read()
            self.apply()
        except VenvdError as error:
            self.problem = error.message
            log.warning("the manifest as it was before is kept: %s", error.message)
        else:
            self.problem = None
            log.info("the manifest %s has changed and is followed", self._path)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _drop(self, delete: Callable[[str], None], name: str) -> None:
        try:
            delete(name)
        except (InUse, NotFound):
            return  # once nothing uses it

    def _renew(self) -> None:
        """A declared backend runs what its venv has become."""
        query = select(BackendRow, VenvRow).join(VenvRow, BackendRow.venv == VenvRow.name)
        query = query.where(BackendRow.owned, BackendRow.state == "running", VenvRow.state == "ready")
        with self._database.read() as session:
            stale = [row for row, venv in session.execute(query) if venv.image and row.key != venv.image["key"]]
        for row in stale:
            log.info("%s: its venv was built anew: starting it again", row.name)
            self._backends.begin_again(row)
