"""Keeps the files of each backend's server up to date, so a revoked key ends there within a few seconds.

One file contains the keys, another one the secrets. The rest are files of the host, such as certificates, for servers
that do not see the host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from venvd_contract.errors import Unavailable, VenvdError
from venvd_controller.backends import Backends
from venvd_controller.database.tables import LaunchRow
from venvd_controller.keys import Keys
from venvd_controller.secret_store import SecretStore
from venvd_engines.engine import Engine, LaunchRecord

log = logging.getLogger("venvd.controller")

_LOOK_SECONDS = 3.0
"""Seconds between two searches for backends with outdated files. A change is written at once."""
_REPAIR_SECONDS = 30.0
"""Seconds after which a file is written again in any case."""


class KeyFiles:
    """Runs in its own thread, because the reconcile loop may have to wait for the engine."""

    def __init__(self, engine: Engine, keys: Keys, secrets: SecretStore, backends: Backends) -> None:
        self._keys = keys
        self._secrets = secrets
        self._backends = backends
        self._engine = engine
        self._writers = {"keys": engine.write_keys, "secrets": engine.write_secrets}
        self._files: dict[tuple[str, str], tuple[bytes, float]] = {}
        """The content that was last written and the time to write it again, by launch and kind."""
        self._failures: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key files", daemon=True)
        for changes in (keys.on_change, secrets.on_change, backends.on_change):
            changes.append(self.update)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.update()
            self._stopping.wait(_LOOK_SECONDS)

    def update(self) -> None:
        """Write the files that are outdated. A failure is logged, and the next search tries again."""
        try:
            with self._lock:
                self._write_changed()
        except VenvdError as error:
            log.warning("the key files of the backends: %s", error.message)
        except Exception:
            log.exception("the key files of the backends cannot be written")

    def _write_changed(self) -> None:
        rows = {row.launch: row for row in self._backends.list_rows() if row.launch is not None and row.record}
        self._files = {each: file for each, file in self._files.items() if each[0] in rows}
        self._failures = {each: failure for each, failure in self._failures.items() if each[0] in rows}
        secrets = self._secrets.render_files(list(rows.values()))
        for launch, row in rows.items():
            self._write(launch, "keys", row, self._keys.render_file(row))
            self._write(launch, "secrets", row, secrets[row.name])
            self._refresh(launch, row)

    def _write(self, launch: str, kind: str, row: LaunchRow, data: bytes | Unavailable) -> None:
        known, written_again_at = self._files.get((launch, kind), (b"", 0.0))
        if data == known and time.monotonic() < written_again_at:
            return
        write: Callable[[LaunchRecord, bytes], None] = self._writers[kind]
        with self._log_failure(launch, kind, row):
            if isinstance(data, Unavailable):
                raise data
            write(LaunchRecord(**row.record or {}), data)
            self._files[launch, kind] = (data, time.monotonic() + _REPAIR_SECONDS)

    def _refresh(self, launch: str, row: LaunchRow) -> None:
        with self._log_failure(launch, "files", row):
            self._engine.refresh_files(LaunchRecord(**row.record or {}))

    @contextmanager
    def _log_failure(self, launch: str, kind: str, row: LaunchRow) -> Iterator[None]:
        """Log a new failure, and go on: the other launches get their files."""
        try:
            yield
        except (VenvdError, OSError) as error:
            if self._failures.get((launch, kind)) != str(error):
                log.warning("%s: its server has old %s: %s", row.name, kind, error)
            self._failures[launch, kind] = str(error)
        else:
            self._failures.pop((launch, kind), None)
