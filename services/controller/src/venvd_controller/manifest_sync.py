"""Synchronises the desired state with the manifest: at the start, at each change of the file, and in each turn."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from sqlalchemy import select

from venvd_contract.errors import InUse, InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import BackendSpec
from venvd_controller.backends import Backends
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, RuntimeRow, VenvRow
from venvd_controller.manifest import Manifest, read_manifest
from venvd_controller.providers import Providers
from venvd_controller.runtimes import Runtimes
from venvd_controller.venvs import Venvs

log = logging.getLogger("venvd.controller")

DEFAULT_PATH = Path("venvd.yaml")


class ManifestSync:
    """Keeps the desired state as the manifest declares it.

    Args:
        path: a manifest that must exist; None is `venvd.yaml` if that exists.

    Attributes:
        problem: what is wrong with the file since its last change; the manifest before that change stays in force.

    Raises:
        InvalidRequest: the manifest is missing or wrong.
    """

    def __init__(
        self,
        path: Path | None,
        database: Database,
        runtimes: Runtimes,
        venvs: Venvs,
        providers: Providers,
        backends: Backends,
    ) -> None:
        self._path = (path or DEFAULT_PATH).absolute()
        self._database = database
        self._runtimes = runtimes
        self._venvs = venvs
        self._providers = providers
        self._backends = backends
        self._files: list[Path] = []
        exists = path is not None or self._path.exists()
        self._manifest = self._read() if exists else None
        self._stamp = self._stat()
        self.problem: str | None = None

    def _read(self) -> Manifest:
        self._files = []
        # the list is filled in place, so that a file that is missing is watched too
        manifest = read_manifest(self._path, self._backends.host_paths, self._files)
        with self._database.read() as session:
            known = {"default", *manifest.venvs, *session.scalars(select(VenvRow.name))}
        for name, spec in manifest.backends.items():
            if spec.venv not in known:
                raise InvalidRequest(
                    f'the manifest {self._path}: the backend "{name}" is for a venv "{spec.venv}", '
                    "which is neither declared nor exists"
                )
        return manifest

    def apply(self) -> None:
        """Write the manifest to the desired state. Without a manifest nothing changes."""
        if self._manifest is None:
            return
        for version in self._manifest.runtimes:
            self._runtimes.put(version, declared=True)
        for name, needed in self._manifest.providers.items():
            self._providers.put(name, needed, declared=True)
        for name, spec in self._manifest.venvs.items():
            self._venvs.put(name, spec, declared=True)
        for name, backend in self._manifest.backends.items():
            self._apply_backend(name, backend)
        with self._database.read() as session:
            query = select(BackendRow.name).where(BackendRow.declared, BackendRow.wanted)
            undeclared = set(session.scalars(query)) - set(self._manifest.backends)
        for name in undeclared:
            self._backends.request_removal(name)

    def _apply_backend(self, name: str, spec: BackendSpec) -> None:
        try:
            self._backends.get_row(name)
        except NotFound:
            self._backends.start(spec, declared=True)
        else:
            self._backends.declare(spec)

    # ---- in each turn of the reconcile loop ----

    def sync(self) -> None:
        """Follow changes of the file, delete what it no longer names, restart backends whose venv was rebuilt."""
        if self._manifest is None:
            return
        self._reload_if_changed()
        manifest = self._manifest
        with self._database.read() as session:
            backends = set(session.scalars(select(BackendRow.name)))
            venvs = set(session.scalars(select(VenvRow.name).where(VenvRow.declared)))
            runtimes = set(session.scalars(select(RuntimeRow.version).where(RuntimeRow.declared)))
        providers = self._providers.list_declared()
        missing = (
            set(manifest.backends) - backends
            or set(manifest.venvs) - venvs
            or set(manifest.providers) - providers
            or set(manifest.runtimes) - runtimes
        )
        if missing:
            self.apply()
        for name in venvs - set(manifest.venvs):
            with contextlib.suppress(InUse, NotFound):  # a later turn deletes it when nothing uses it
                self._venvs.delete(name)
        for name in providers - set(manifest.providers):
            with contextlib.suppress(NotFound):
                self._providers.delete(name)
        for version in runtimes - set(manifest.runtimes):
            with contextlib.suppress(InUse, NotFound):
                self._runtimes.delete(version)
        self._restart_outdated()

    def _reload_if_changed(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._manifest = self._read()
            self.apply()
        except VenvdError as error:
            self.problem = error.message
            log.warning("the previous manifest stays in force: %s", error.message)
        else:
            self.problem = None
            log.info("the manifest %s has changed and is in force", self._path)

    def _stat(self) -> list[tuple[int, int, int] | None]:
        """Return what changes with the manifest and the files that it names."""
        return [_stat(path) for path in (self._path, *self._files)]

    def _restart_outdated(self) -> None:
        """Restart declared backends that run an older build of their venv."""
        query = select(BackendRow, VenvRow).join(VenvRow, BackendRow.venv == VenvRow.name)
        query = query.where(BackendRow.declared, BackendRow.state == "running", VenvRow.state == "ready")
        with self._database.read() as session:
            outdated = [row for row, venv in session.execute(query) if venv.image and row.key != venv.image["key"]]
        for row in outdated:
            log.info("%s: its venv was rebuilt; it is restarted", row.name)
            self._backends.start_if_unchanged(row)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
