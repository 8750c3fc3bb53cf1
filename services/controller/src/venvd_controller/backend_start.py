"""The operation `backend.start`: venv, server image, launch, and the wait until the backend is ready."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from venvd_contract.errors import Cancelled, NotFound, Unavailable, VenvdError
from venvd_contract.internal.messages import WALLS_PATH, WallsReport
from venvd_contract.resources import Walls
from venvd_controller import certificates, probes, replicas
from venvd_controller.backend_events import BackendEvents
from venvd_controller.backends import KIND, UPDATE, Backends
from venvd_controller.clock import now
from venvd_controller.database.tables import LaunchRow
from venvd_controller.home import Home
from venvd_controller.images import Images
from venvd_controller.keys import Keys
from venvd_controller.launch_plan import (
    check_host_paths,
    check_socket_dir,
    create_server_env,
    find_certificate,
    plan_launch,
    read_ports,
)
from venvd_controller.launch_rows import read_spec
from venvd_controller.operations import OperationKind, Operations, Run
from venvd_controller.secret_store import SecretStore
from venvd_controller.settings import Settings
from venvd_controller.start_places import Place, StartPlaces
from venvd_controller.venvs import Venvs
from venvd_engines.engine import ROUTER, Engine, Image, LaunchRecord, Owned

_walls = TypeAdapter(WallsReport)

_STARTING = frozenset({"pending", "starting"})
_PROBE_INTERVAL = 0.05
_FIRST_PROBE_PAUSE, _LONGEST_PROBE_PAUSE, _PROBE_SHARE = 0.02, 1.0, 0.05
"""The pause between two probes of a start is a share of the start's time so far. If starts take long, many run at once,
and frequent probes would take the processor from them."""
_FIRST_INSPECTION, _LONGEST_INSPECTION_PAUSE, _INSPECTION_SHARE = 0.3, 2.0, 0.5
_PLACE_SECONDS = 10.0
"""After this time, a launch that is not ready leaves its place to another start, since it may wait for something."""
_LAST_LINES = 8


class BackendStarter:
    """Runs the operations that start backends."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        home: Home,
        backends: Backends,
        venvs: Venvs,
        images: Images,
        operations: Operations,
        keys: Keys,
        secrets: SecretStore,
        events: BackendEvents,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._secrets = secrets
        self._events = events
        self._settings = settings
        self._home = home
        self._backends = backends
        self._venvs = venvs
        self._images = images
        self._operations = operations
        self._places = StartPlaces(engine, settings.max_starts)
        operations.register(KIND, OperationKind(self._run_start, backends.record_failure))

    def _run_start(self, name: str, run: Run) -> None:
        """Start a backend. This replaces its running launch."""
        row = self._await_update(name, run)
        self.start(row, run)
        if len(self._backends.list_launches(row.replica_of or row.name)) > 1:
            if row.replica == 0:
                # the starts of the others were queued before this one
                self.await_replicas(lambda: self._backends.list_launches(name)[1:], run)
            self._backends.announce_change()  # each replica learns the address of this one

    def start(self, row: LaunchRow, run: Run) -> None:
        """Start a launch, and wait until it is ready. The present launch of the row ends before.

        Raises:
            Cancelled: the launch is not wanted any more.
            VenvdError: the launch does not start.
        """
        if not row.wanted:
            raise Cancelled(f'the backend "{row.place}" is being removed')
        self._backends.update(row.name, state="starting", error=None)
        with self._images.hold():
            if not self._adopt_own_launch(row, run):
                self._replace_launch(row, run)

    def _await_update(self, name: str, run: Run) -> LaunchRow:
        """Wait for the end of a cancelled update, since it may start the same launch. Return the row."""
        backend = self._backends.get_row(name).replica_of or name
        while self._operations.is_ending(UPDATE, backend):
            run.check()
            time.sleep(_PROBE_INTERVAL)
        return self._backends.get_row(name)

    def await_replicas(self, list_replicas: Callable[[], Sequence[LaunchRow]], run: Run) -> Sequence[LaunchRow]:
        """Wait until the starts of some replicas have ended. Return their rows.

        The time limit of the wait begins when none of these starts runs, since each start has its own limits.

        Raises:
            Unavailable: a replica could not be started.
        """
        run.phase("replicas")
        end = time.monotonic() + self._settings.start_timeout
        while True:
            rows = list_replicas()
            if _do_sleep(rows):
                return rows
            waiting = [row for row in rows if row.state in {*_STARTING, "idle"}]
            if self._is_any_starting(waiting):
                end = time.monotonic() + self._settings.start_timeout
            if not waiting or time.monotonic() >= end:
                break
            run.check()
            time.sleep(_PROBE_INTERVAL)
        failed = next((row for row in rows if row.wanted and row.state != "running"), None)
        if failed is not None:
            raise Unavailable(f"{replicas.title(failed)} is {failed.state}: {failed.error or 'its start goes on'}")
        return rows

    def _is_any_starting(self, rows: Sequence[LaunchRow]) -> bool:
        """Return whether one of the launches is being started. A launch that waits for its turn does not count."""
        return any(row.state in _STARTING and self._operations.is_running(KIND, row.name) for row in rows)

    def _adopt_own_launch(self, row: LaunchRow, run: Run) -> bool:
        """Adopt the complete launch that this operation made before the controller was killed."""
        if row.launched_by != run.id:
            return False
        owned = self._find_launch(row)
        if owned is None or owned.record is None or not owned.complete:
            return False
        run.log("it was launched already")
        routed = self._find_router(row) is not None
        path = find_certificate(self._venvs.get(row.venv).spec, read_spec(row), routed=routed)
        given = certificates.read_given(path) if path else None
        record = replace(owned.record, certificate_file=path, certificate=given)
        self._write_launch(row, record)
        with self._places.take(run) as place:
            self._await_ready(row, record, run, place)
        return True

    def _replace_launch(self, row: LaunchRow, run: Run) -> None:
        image = self._choose_image(row, run)
        run.phase("server")
        kind = ROUTER if row.is_router else row.spec["type"]
        self._engine.prepare(kind, run)
        run.check()
        if row.is_router:
            self._await_address(row, run)
        previous = self._end_launch(row)
        try:
            spec = read_spec(row)
            if row.stage is None:
                check_socket_dir(spec, self._settings.sockets)
            venv = self._venvs.get(row.venv).spec
            check_host_paths(venv, spec, self._backends.host_paths)
            routed = self._find_router(row) is not None
            path = find_certificate(venv, spec, routed=routed)
            given = certificates.read_given(path) if path else None
            launch = plan_launch(
                row,
                venv,
                image,
                create_server_env(row, venv, self._backends, self._settings, self._engine.name),
                self._settings,
                self._home.id,
                replicas.list_reserved_ports(self._backends.list_rows(), row),
                self._keys.render_file(row),
                self._secrets.render_file(row),
                routed,
                self._backends.tokens.derive_manages_key(row) if spec.manages and not row.is_router else None,
                None if row.is_router else self._backends.assign_user_id(row.name, self._engine.claim_user_ids()),
            )
            # write it before the engine makes anything: if this controller is killed, the next one finds the launch
            server = self._engine.identify_server(kind)
            built = {"python": image.python, "key": image.key, "server": server}
            if row.key not in {None, image.key}:
                built["previous_key"] = row.key
            self._backends.update(row.name, launch=launch.id, launched_by=run.id, **built)
            with self._places.take(run) as place:
                run.phase("start")
                record = self._engine.start(launch, run)
                record = replace(record, certificate_file=path, certificate=given)
                self._write_launch(row, record)
                self._await_ready(row, record, run, place)
        except BaseException:
            if previous is not None:
                with contextlib.suppress(VenvdError):
                    self._engine.destroy(previous)  # remove the directory of sockets, which stayed for the new launch
            raise

    def _choose_image(self, row: LaunchRow, run: Run) -> Image:
        """Choose the image to start: the newest build of the venv, or after a rollback the earlier one.

        If an update to the newest build has failed, a backend that ended takes the build that it ran.

        Raises:
            NotFound: the build of a rollback is gone.
        """
        key = row.pinned_key or row.proven_key
        if key is None:
            newest = self._venvs.ensure(row.venv, run)
            failed_before = row.failed_update is not None and row.failed_update.partition("/")[0] == newest.key
            last = self._engine.find_image(row.key) if failed_before and row.key is not None else None
            return last or newest
        image = self._engine.find_image(key)
        if image is None:
            reason = f"the backend was {'rolled back' if row.pinned_key else 'updated'} to it"
            raise NotFound(
                f'the build {key} of the venv "{row.venv}" is gone, and {reason}: '
                f"`venvd restart {row.replica_of or row.name}` takes the newest"
            )
        return image

    def _find_router(self, row: LaunchRow) -> LaunchRow | None:
        """Find the router of the backend of a row."""
        launches = self._backends.list_launches(row.replica_of or row.name)
        return launches[-1] if launches[-1].is_router else None

    def _await_address(self, row: LaunchRow, run: Run) -> None:
        """Wait until replica 0 no longer has the address of its backend. The router takes that address."""
        while True:
            first = self._backends.get_row(row.replica_of or "")
            if first.launch is None or first.launched_by == first.operation or first.state not in _STARTING:
                return
            run.check()
            time.sleep(_PROBE_INTERVAL)

    def _find_launch(self, row: LaunchRow) -> Owned | None:
        return next((owned for owned in self._engine.list_owned() if owned.launch_id == row.launch), None)

    def _end_launch(self, row: LaunchRow) -> LaunchRecord | None:
        """End the launch of a backend, also an incomplete one of a killed controller. Return its record."""
        record = LaunchRecord(**row.record) if row.record is not None else None
        if record is not None:
            self._events.collect_last(row, record)
            self._engine.stop(record, self._settings.stop_grace)
            self._engine.destroy(record, again=True)
        elif row.launch is not None and (owned := self._find_launch(row)) is not None:
            self._engine.destroy_owned(owned)
        self._backends.update(row.name, launch=None, record=None, walls=None)
        return record

    def _write_launch(self, row: LaunchRow, record: LaunchRecord) -> None:
        self._backends.update(row.name, record=asdict(record), url=record.url, ports=read_ports(record))

    def _await_ready(self, row: LaunchRow, record: LaunchRecord, run: Run, place: Place) -> None:
        run.phase("ready")
        try:
            self._poll_readiness(row, record, run, place)
        except VenvdError:
            if not run.closing:
                self._engine.stop(record, 0)
                self._engine.destroy(record)
                self._backends.update(row.name, record=None, launch=None)
            raise
        walls = None if row.is_router else self._read_walls(row, record)
        self._backends.update(row.name, state="running", error=None, started_at=now(), walls=walls, proven_key=None)

    def _read_walls(self, row: LaunchRow, record: LaunchRecord) -> dict[str, Any] | None:
        """Ask the server of a backend for the walls around its user code. Return None if it does not report them."""
        try:
            status, body = probes.fetch(record, WALLS_PATH, self._backends.tokens.derive_for_metrics(row))
            report = _walls.validate_json(body) if status == http.client.OK else None
        except (VenvdError, ValidationError):
            return None
        return None if report is None else asdict(Walls(**asdict(report), ociRuntime=record.data.get("ociRuntime")))

    def _poll_readiness(self, row: LaunchRow, record: LaunchRecord, run: Run, place: Place) -> None:
        if row.is_router:
            place.leave()  # a router is ready after a replica, which needs a place
        begin = time.monotonic()
        end = begin + self._settings.start_timeout
        next_inspection = _FIRST_INSPECTION
        readiness = probes.Readiness(ready=False, reason="no probe was answered")
        while True:
            now = time.monotonic()
            if self._must_wait(row):
                end = now + self._settings.start_timeout  # its time begins once the replicas have started
            if now >= end:
                break
            passed = now - begin
            run.check()
            readiness = probes.probe_readiness(record)
            if readiness.ready or (readiness.answered and self._is_router_of_sleepers(row)):
                return
            if passed >= _PLACE_SECONDS:
                place.leave()
            if passed >= next_inspection:
                self._check_parts(record)
                next_inspection = passed + min(passed * _INSPECTION_SHARE, _LONGEST_INSPECTION_PAUSE)
            time.sleep(min(max(passed * _PROBE_SHARE, _FIRST_PROBE_PAUSE), _LONGEST_PROBE_PAUSE))
        lines = "".join(self._read_last_lines(record, part) for part in ("server", "worker"))
        raise Unavailable(f"not ready after {self._settings.start_timeout:g} s: {readiness.reason}{lines}")

    def _is_router_of_sleepers(self, row: LaunchRow) -> bool:
        """Return whether a row is that of a router whose replicas sleep. It is not ready until a call wakes them."""
        return row.is_router and _do_sleep(self._backends.list_launches(row.replica_of or ""))

    def _must_wait(self, row: LaunchRow) -> bool:
        """Return whether a launch cannot be ready yet: a router waits for a replica, whose start takes its own time."""
        if not row.is_router:
            return False
        launches = self._backends.list_launches(row.replica_of or "")
        return self._is_any_starting([each for each in launches if not each.is_router])

    def _check_parts(self, record: LaunchRecord) -> None:
        """Raise `Unavailable` if the server or the worker host has ended."""
        backend = self._engine.inspect(record)
        for name, part in (("server", backend.server), ("worker", backend.worker)):
            if part.state != "running":
                detail = f" ({part.detail})" if part.detail else ""
                raise Unavailable(f"its {name} is {part.state}{detail}{self._read_last_lines(record, name)}")

    def _read_last_lines(self, record: LaunchRecord, part: str) -> str:
        try:
            lines = [line.text for line in self._engine.logs(record, 40, follow=False) if line.source == part]
        except VenvdError:
            return ""
        return f"; the last lines of its {part}:\n" + "\n".join(lines[-_LAST_LINES:]) if lines else ""


def _do_sleep(rows: Sequence[LaunchRow]) -> bool:
    """Return whether all replicas of a backend sleep."""
    states = {row.state for row in rows if not row.is_router}
    return states == {"idle"}
