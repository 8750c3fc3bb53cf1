"""Keeps the key file of each backend's server up to date: a revoked key ends there within a few seconds."""

from __future__ import annotations

import logging
import threading
import time

from venvd_contract.errors import VenvdError
from venvd_controller.backends import Backends
from venvd_controller.keys import Keys
from venvd_engines.engine import Engine, LaunchRecord

log = logging.getLogger("venvd.controller")

_LOOK_SECONDS = 3.0
"""Seconds between two looks for backends whose file is not as it should be; a change of the keys comes at once."""
_REPAIR_SECONDS = 30.0
"""Seconds after which a file is written again, whatever became of it."""


class KeyFiles:
    """One thread, apart from the reconcile loop, which may wait for the engine."""

    def __init__(self, engine: Engine, keys: Keys, backends: Backends) -> None:
        self._engine = engine
        self._keys = keys
        self._backends = backends
        self._files: dict[str, tuple[bytes, float]] = {}
        """By launch: what was last written, and when it is written again."""
        self._failures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key files", daemon=True)
        keys.on_change.append(self.update)
        backends.on_change.append(self.update)

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
        """Write the files that are not as they should be. What fails is logged; the next look tries it again."""
        try:
            with self._lock:
                self._write_changed()
        except VenvdError as error:
            log.warning("the key files of the backends: %s", error.message)
        except Exception:
            log.exception("the key files of the backends cannot be written")

    def _write_changed(self) -> None:
        rows = {row.launch: row for row in self._backends.list_rows() if row.launch is not None and row.record}
        self._files = {launch: file for launch, file in self._files.items() if launch in rows}
        self._failures = {launch: failure for launch, failure in self._failures.items() if launch in rows}
        for launch, row in rows.items():
            data = self._keys.render_file(row)
            known, written_again_at = self._files.get(launch, (b"", 0.0))
            if data == known and time.monotonic() < written_again_at:
                continue
            try:
                self._engine.write_keys(LaunchRecord(**row.record or {}), data)
            except (VenvdError, OSError) as error:  # of this launch alone: the others get their keys
                if self._failures.get(launch) != str(error):
                    log.warning("%s: its server has old keys: %s", row.name, error)
                self._failures[launch] = str(error)
            else:
                self._failures.pop(launch, None)
                self._files[launch] = (data, time.monotonic() + _REPAIR_SECONDS)
