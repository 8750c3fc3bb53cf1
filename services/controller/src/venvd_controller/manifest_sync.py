"""Synchronises the desired state with the manifest: at the start, after each change of the file, and in each turn."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from pathlib import Path

from sqlalchemy import select

from venvd_contract.errors import Conflict, InUse, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_contract.resources import BackendSpec
from venvd_contract.watched_file import find_version
from venvd_controller.backends import Backends
from venvd_controller.database import Database
from venvd_controller.database.tables import LaunchRow, RuntimeRow, StoppedRow, VenvRow
from venvd_controller.manifest import Manifest, read_manifest
from venvd_controller.providers import Providers
from venvd_controller.runtimes import Runtimes
from venvd_controller.venvs import Venvs

log = logging.getLogger("venvd.controller")

DEFAULT_PATH = Path("venvd.yaml")
_SETTLED_SECONDS = 0.2
"""How long the files must not have changed before they are read again."""


class ManifestSync:
    """Keeps the desired state as the manifest declares it.

    Args:
        path: a manifest that must exist; None is `venvd.yaml` if that exists.

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
        self._digest = ""
        self._synced: tuple[int, str] | None = None
        """The number of writes of the database and the digest of the file, at the last turn that looked at both."""
        exists = path is not None or self._path.exists()
        self._manifest = self._read() if exists else None
        self._read_versions = self._seen = self._find_versions()
        self._seen_at = 0.0
        self._file_problem: str | None = None
        self._backend_problem: str | None = None

    def _read(self) -> Manifest:
        self._files = []
        # this fills the list in place, so that a missing file is watched too
        manifest = read_manifest(self._path, self._backends.host_paths, self._files)
        texts = [self._path.read_bytes(), *(file.read_bytes() for file in self._files)]
        self._digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
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
        """Write the manifest to the desired state. Without a manifest nothing changes.

        A backend that cannot change now does not hold up the others. `sync` tries again.
        """
        if self._manifest is None:
            return
        problem: str | None = None
        for version in self._manifest.runtimes:
            self._runtimes.put(version, declared=True)
        for name, needed in self._manifest.providers.items():
            self._providers.put(name, needed, declared=True)
        for name, spec in self._manifest.venvs.items():
            self._venvs.put(name, spec, declared=True)
        stopped = self._list_stopped()
        for name, backend in self._manifest.backends.items():
            try:
                self._apply_backend(name, backend, stopped=name in stopped)
            except (Conflict, Unavailable) as error:
                problem = f'the backend "{name}" of the manifest: {error.message}'
        if problem is not None and problem != self._backend_problem:
            log.warning("%s", problem)
        self._backend_problem = problem
        with self._database.read() as session:
            query = select(LaunchRow.name).where(LaunchRow.declared, LaunchRow.wanted, LaunchRow.replica == 0)
            undeclared = set(session.scalars(query)) - set(self._manifest.backends)
        for name in undeclared:
            self._backends.request_removal(name)

    def _apply_backend(self, name: str, spec: BackendSpec, *, stopped: bool) -> None:
        try:
            self._backends.get_row(name)
        except NotFound:
            if not stopped:
                self._backends.start(spec, declared=True)
        else:
            self._backends.declare(spec)

    @property
    def problem(self) -> str | None:
        """What is wrong with the file since its last change, so that the earlier manifest stays in force.

        Or why a backend of the manifest cannot change now; each turn tries again.
        """
        return self._file_problem or self._backend_problem

    @property
    def path(self) -> Path | None:
        """The manifest in force, if there is one."""
        return None if self._manifest is None else self._path

    def _stop_declared(self, name: str) -> None:
        """Mark a declared backend for removal, and do not start it while the manifest is the same."""
        with self._database.write() as session:
            session.merge(StoppedRow(backend=name, manifest=self._digest))
        self._backends.request_removal(name)

    def _list_stopped(self) -> set[str]:
        """List the declared backends that stay stopped while the manifest is the same."""
        with self._database.read() as session:
            return set(session.scalars(select(StoppedRow.backend).where(StoppedRow.manifest == self._digest)))

    def stop_backend(self, name: str, *, until_changed: bool) -> None:
        """Mark a backend for removal.

        Args:
            name: the name of the backend.
            until_changed: whether to stop even a declared backend, until the manifest changes.

        Raises:
            Conflict: the manifest declares the backend and would start it again.
        """
        if self._manifest is None or name not in self._manifest.backends or not self._backends.get_row(name).declared:
            self._backends.request_removal(name)
        elif until_changed:
            self._stop_declared(name)
        else:
            raise Conflict(
                f'the manifest {self._path} declares the backend "{name}" and would start it again: remove it there, '
                f"or stop it until the manifest changes with `venvd stop {name} --until-changed` (?untilChanged=true)"
            )

    # ---- in each turn of the reconcile loop ----

    def sync(self) -> None:
        """Follow changes of the file, and delete what the manifest no longer names."""
        if self._manifest is None:
            return
        self._reload_if_changed()
        state = self._database.writes, self._digest
        if state != self._synced:
            self._follow(self._manifest)
            # the next turn looks at the changes that this turn made
            self._synced = None if self._backend_problem else state

    def _follow(self, manifest: Manifest) -> None:
        with self._database.read() as session:
            backends = set(session.scalars(select(LaunchRow.name)))
            venvs = set(session.scalars(select(VenvRow.name).where(VenvRow.declared)))
            runtimes = set(session.scalars(select(RuntimeRow.version).where(RuntimeRow.declared)))
        providers = self._providers.list_declared()
        missing = (
            set(manifest.backends) - backends - self._list_stopped()
            or set(manifest.venvs) - venvs
            or set(manifest.providers) - providers
            or set(manifest.runtimes) - runtimes
        )
        if missing or self._backend_problem:
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

    def _reload_if_changed(self) -> None:
        versions = self._find_versions()
        if versions != self._seen:
            self._seen, self._seen_at = versions, time.monotonic()
        # a writer may be between two parts of a file
        if versions == self._read_versions or time.monotonic() - self._seen_at < _SETTLED_SECONDS:
            return
        self._read_versions = versions
        try:
            self._manifest = self._read()
            self.apply()
        except VenvdError as error:
            self._file_problem = error.message
            log.warning("the previous manifest stays in force: %s", error.message)
        else:
            self._file_problem = None
            log.info("the manifest %s has changed and is in force", self._path)

    def _find_versions(self) -> list[tuple[int, ...] | None]:
        """Return a value that changes with the manifest and the files that it names."""
        return [find_version(path) for path in (self._path, *self._files)]
