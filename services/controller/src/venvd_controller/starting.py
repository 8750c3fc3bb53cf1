"""The work of starting a backend: venv, server, launch, and waiting until it is ready."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict

from venvd_contract.errors import Cancelled, Unavailable, VenvdError
from venvd_controller import launching, probes
from venvd_controller.backends import KIND, Backends, spec_of
from venvd_controller.clock import now
from venvd_controller.database.tables import BackendRow
from venvd_controller.home import Home
from venvd_controller.images import Images
from venvd_controller.operations import Kind, Operations, Run
from venvd_controller.settings import Settings
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine, Image, LaunchRecord, Owned

_PROBE_SECONDS = 0.05
_INSPECT_SECONDS = 0.3
_LAST_LINES = 8


class Starter:
    """Runs operations of the kind `backend.start`."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        home: Home,
        backends: Backends,
        venvs: Venvs,
        images: Images,
        operations: Operations,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._home = home
        self._backends = backends
        self._venvs = venvs
        self._images = images
        operations.register(KIND, Kind(self._start, backends.note_failure))

    def _start(self, name: str, run: Run) -> None:
        """Replace whatever runs of this backend by a fresh launch."""
        row = self._backends.row(name)
        if not row.wanted:
            raise Cancelled(f'the backend "{name}" is being removed')
        self._backends.update(name, state="starting", error=None)
        with self._images.using():
            if not self._finish_own_launch(row, run):
                self._replace(row, run)

    def _finish_own_launch(self, row: BackendRow, run: Run) -> bool:
        """A controller that was killed had launched it already: take that launch, where it is whole."""
        if row.launched_by != run.id:
            return False
        owned = self._owned(row)
        if owned is None or owned.record is None or not owned.complete:
            return False
        run.log("it was launched already")
        self._note_launch(row, owned.record)
        self._await_ready(row, owned.record, run)
        return True

    def _replace(self, row: BackendRow, run: Run) -> None:
        image = self._venvs.ensure(row.venv, run)
        run.phase("server")
        self._engine.prepare(row.spec["type"], run)
        run.check()
        before = self._clear(row)
        try:
            self._launch(row, image, run)
        except BaseException:
            if before is not None:
                with contextlib.suppress(VenvdError):
                    self._engine.destroy(before)  # also what was kept for a launch that there is not
            raise

    def _launch(self, row: BackendRow, image: Image, run: Run) -> None:
        launching.check_socket_dir(spec_of(row), self._settings.sockets)
        env = launching.server_env(row, self._backends, self._settings, self._engine.name)
        venv = self._venvs.get(row.venv).spec
        reserved = self._backends.reserved(row.name)
        launch = launching.plan(row, venv, image, env, self._settings, self._home.id, reserved)
        # known before anything is made: a controller killed now finds the launch by its label and row
        self._backends.update(row.name, launch=launch.id, launched_by=run.id, python=image.python, key=image.key)
        run.phase("start")
        record = self._engine.start(launch, run)
        self._note_launch(row, record)
        self._await_ready(row, record, run)

    def _owned(self, row: BackendRow) -> Owned | None:
        return next((found for found in self._engine.list_owned() if found.launch_id == row.launch), None)

    def _clear(self, row: BackendRow) -> LaunchRecord | None:
        """End what runs of it, also what a killed controller had only begun; the record of what ran."""
        record = LaunchRecord(**row.record) if row.record is not None else None
        if record is not None:
            self._engine.stop(record, self._settings.stop_grace)
            self._engine.destroy(record, again=True)
        elif row.launch is not None and (owned := self._owned(row)) is not None:
            self._engine.destroy_owned(owned)
        self._backends.update(row.name, launch=None, record=None)
        return record

    def _note_launch(self, row: BackendRow, record: LaunchRecord) -> None:
        self._backends.update(row.name, record=asdict(record), url=record.url, ports=launching.had(record))

    def _await_ready(self, row: BackendRow, record: LaunchRecord, run: Run) -> None:
        run.phase("ready")
        try:
            self._watch(record, run)
        except VenvdError:
            if not run.closing:
                self._engine.stop(record, 0)
                self._engine.destroy(record)
                self._backends.update(row.name, record=None, launch=None)
            raise
        self._backends.update(row.name, state="running", error=None, started_at=now())

    def _watch(self, record: LaunchRecord, run: Run) -> None:
        end = time.monotonic() + self._settings.start_timeout
        look_at = 0.0
        found = probes.Readiness(ready=False, reason="nothing answered")
        while time.monotonic() < end:
            run.check()
            found = probes.readiness(record.probe_url)
            if found.ready:
                return
            if time.monotonic() >= look_at:
                self._check_parts(record)
                look_at = time.monotonic() + _INSPECT_SECONDS
            time.sleep(_PROBE_SECONDS)
        words = "".join(self._last_words(record, part) for part in ("server", "worker"))
        raise Unavailable(f"not ready after {self._settings.start_timeout:g} s: {found.reason}{words}")

    def _check_parts(self, record: LaunchRecord) -> None:
        state = self._engine.inspect(record)
        for part, found in (("server", state.server), ("worker", state.worker)):
            if found.state != "running" and not state.running:
                detail = f" ({found.detail})" if found.detail else ""
                raise Unavailable(f"its {part} is {found.state}{detail}{self._last_words(record, part)}")

    def _last_words(self, record: LaunchRecord, part: str) -> str:
        try:
            lines = [line.text for line in self._engine.logs(record, 40, follow=False) if line.source == part]
        except VenvdError:
            return ""
        return f"; the last lines of its {part}:\n" + "\n".join(lines[-_LAST_LINES:]) if lines else ""
