"""Makes the actual state (engine) match the desired state (database).

The loop keeps no list of changes: each turn reads both states anew and acts on what differs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from venvd_contract.errors import NotFound, VenvdError
from venvd_controller import probes
from venvd_controller.backend_events import BackendEvents
from venvd_controller.backends import KIND, UPDATE, Backends
from venvd_controller.clock import now
from venvd_controller.database.tables import FORMER, LaunchRow
from venvd_controller.launch_list import LaunchList
from venvd_controller.launch_rows import find_expiry, get_retry_delay, get_version
from venvd_controller.operations import Operations
from venvd_controller.scaling import Scaler
from venvd_controller.sleep import Sleep
from venvd_controller.updates import Updates
from venvd_engines.engine import BackendState, Engine, LaunchRecord, Owned

log = logging.getLogger("venvd.controller")

_THREADS = 16
_UNREADY_SECONDS = 3.0
"""If a backend is not ready for this long, it becomes unhealthy."""
_SILENT_SECONDS = 60.0
"""If a backend's server answers no probe for this long, the backend is replaced."""
_RARE_INTERVALS = 15
_STABLE_SECONDS = 60.0
"""If a backend ran for this long before it ended, it restarts without a delay."""


class Reconciler:
    """The reconcile loop: one thread that hands the work for each backend to a pool of threads.

    Attributes:
        chores: functions that each complete turn calls at its end.
        rare_chores: functions that a complete turn calls once in `_RARE_INTERVALS`.
        last_turn: Unix time of the last complete turn, 0 before the first.
        errors: how many turns, chores and pieces of work for one backend failed.
        engine_error: why the last turn could not read the states; None if it could.
    """

    def __init__(
        self,
        engine: Engine,
        operations: Operations,
        backends: Backends,
        events: BackendEvents,
        scaler: Scaler,
        sleep: Sleep,
        updates: Updates,
        interval: float,
        grace: float,
    ) -> None:
        self._engine = engine
        self._events = events
        self._scaler = scaler
        self._sleep = sleep
        self._updates = updates
        self._operations = operations
        self._backends = backends
        self._interval = interval
        self._grace = grace
        self.chores: list[Callable[[], None]] = []
        self.rare_chores: list[Callable[[], None]] = []
        self._rare_chores_at = 0.0
        self.last_turn = 0.0
        self.errors = 0
        self.engine_error: str | None = None
        self._unready_since: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        self._busy: set[str] = set()
        self._wake = threading.Event()
        self._launches = LaunchList(engine, self.wake)
        self._stopping = False
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="reconcile")
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        self._launches.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._launches.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """Begin the next turn now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self.run_turn()
            self._wake.wait(self._interval)

    def run_turn(self) -> None:
        """Run one turn. The next turn retries what fails."""
        try:
            self._reconcile_all()
        except VenvdError as error:
            self.errors += 1
            if error.message != self.engine_error:
                log.warning("the engine: %s", error.message)
            self.engine_error = error.message
            return
        except Exception:
            self.errors += 1
            log.exception("a turn of the reconcile loop failed")
            return
        if self.engine_error is not None:
            log.info("the engine answers again")
        self.engine_error = None
        for chore in self.chores:
            self._run_chore(chore)
        if time.monotonic() >= self._rare_chores_at:
            self._rare_chores_at = time.monotonic() + _RARE_INTERVALS * self._interval
            for chore in self.rare_chores:
                self._run_chore(chore)
        self.last_turn = time.time()

    def _run_chore(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except VenvdError as error:
            self.errors += 1
            log.warning("%s", error.message)
        except Exception:
            self.errors += 1
            log.exception("a chore of the reconcile loop failed")

    def _reconcile_all(self) -> None:
        # A turn reads the rows before and after it asks the engine. The second reading includes the launches that began
        # in between. The next turn handles the backends that changed in between.
        rows_before = self._backends.list_rows()
        versions_before = {row.name: get_version(row) for row in rows_before}
        known = {row.launch for row in rows_before if row.launch is not None}
        started = {row.launch for row in rows_before if row.launch is not None and row.record is not None}
        owned_by_launch = self._launches.read(known, started)
        rows = self._backends.list_rows()
        known_launches = {row.launch for row in rows}
        for launch_id, owned in owned_by_launch.items():
            if launch_id not in known_launches:
                self._submit(launch_id, self._destroy_stray, owned)
        starting_names = self._operations.list_active_targets(KIND)
        time_now = now()
        for row in rows:
            if row.wanted and (find_expiry(row) or time_now) < time_now:
                self._submit(row.name, self._expire, row)
            elif versions_before.get(row.name) == get_version(row) and row.name not in starting_names:
                self._submit(row.name, self._reconcile, row, owned_by_launch.get(row.launch or ""))

    def _submit(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        """Hand work to the pool, unless work for the same key is still queued or running there."""
        if key not in self._busy and not self._stopping:
            self._busy.add(key)
            self._pool.submit(self._work, key, work, *arguments)

    def _work(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except NotFound:
            pass  # the backend was removed meanwhile
        except VenvdError as error:
            self.errors += 1
            log.warning("%s: %s", key, error.message)
        except Exception:
            self.errors += 1
            log.exception("%s cannot be reconciled", key)
        finally:
            self._busy.discard(key)

    def _destroy_stray(self, owned: Owned) -> None:
        log.info("destroying a launch without a backend: %s (%s)", owned.name, owned.launch_id)
        self._engine.destroy_owned(owned)

    def _reconcile(self, row: LaunchRow, owned: Owned | None) -> None:
        if not row.wanted:
            self._remove(row, owned)
        elif row.stage is not None:
            self._end_beside(row, owned)
        elif self._scaler.has_drained(row):
            self._backends.end_drain(row.name)
            self.wake()
        elif row.state == "idle":
            self._end_sleeping(row, owned)
        elif row.record is not None and row.state in {"running", "unhealthy"}:
            self._check(row, LaunchRecord(**row.record), owned)
        elif owned is not None and row.state in {"unhealthy", "failed"}:
            self._remove_rest(row, owned)
        elif row.state == "unhealthy" or (row.declared and row.state == "failed"):
            self._retry(row)
        elif row.state in {"pending", "starting"} and not self._is_updated(row):
            self._backends.start_if_unchanged(row)

    def _end_sleeping(self, row: LaunchRow, owned: Owned | None) -> None:
        """End the launch of a replica that sleeps."""
        if row.launch is None:
            return
        if row.record is not None:
            if not self._sleep.may_end(row) or not self._sleep.begin_end(row):
                return
            self._end_launch(row, LaunchRecord(**row.record))
        elif owned is not None:
            self._engine.destroy_owned(owned)  # a controller was killed while it ended the launch
        self._sleep.note_end(row)
        self.wake()

    def _end_beside(self, row: LaunchRow, owned: Owned | None) -> None:
        """Remove a launch beside a place, once it has drained or ended, or if no update needs it."""
        is_gone = row.stage == FORMER and (owned is None or not owned.running)
        if is_gone or self._updates.has_ended(row):
            self._backends.end_drain(row.name)
            self.wake()

    def _is_updated(self, row: LaunchRow) -> bool:
        """Return whether an update of the backend starts this launch."""
        updated = self._operations.list_active_targets(UPDATE)
        return row.proven_key is not None and (row.replica_of or row.name) in updated

    def _expire(self, row: LaunchRow) -> None:
        log.info("%s: its time to live is over; it is removed", row.name)
        self._events.collect_end(row, "its time to live is over")
        self._backends.request_removal(row.name)
        self.wake()

    def _remove(self, row: LaunchRow, owned: Owned | None) -> None:
        if row.record is not None:
            self._end_launch(row, LaunchRecord(**row.record))
        elif owned is not None:
            self._engine.destroy_owned(owned)
        self._backends.delete_row(row.name)
        if row.replica_of is not None:
            self.wake()  # another turn is due, since the row of the backend goes last

    def _remove_rest(self, row: LaunchRow, owned: Owned) -> None:
        """Remove what a failed start has left because the engine was away."""
        log.info("%s: destroying what its failed start left", row.name)
        self._engine.destroy_owned(owned)
        self._backends.update_if_unchanged(row, launch=None, record=None)
        self.wake()

    def _end_launch(self, row: LaunchRow, record: LaunchRecord) -> None:
        self._events.collect_last(row, record)
        self._engine.stop(record, self._grace)
        self._engine.destroy(record)
        self._reset_probes(row.name)

    def _check(self, row: LaunchRow, record: LaunchRecord, owned: Owned | None) -> None:
        if owned is None or not owned.running:
            state = None if owned is None else self._engine.inspect(record)
            if state is None or not state.running:
                self._replace(row, _describe_end(state))
                return
        readiness = probes.probe_readiness(record)
        self._events.collect(row, record, readiness.audit_position)
        # a router is not ready while no replica is, but replicas have their own states
        if readiness.ready or (row.is_router and readiness.answered):
            self._reset_probes(row.name)
            if row.state != "running":
                self._backends.update_if_unchanged(row, state="running", error=None)
            return
        unready_seconds, silent_seconds = self._measure_outage(row.name, readiness)
        if silent_seconds >= _SILENT_SECONDS:
            self._replace(row, f"its server gave no answer for {_SILENT_SECONDS:g} s")
        elif row.state == "running" and unready_seconds >= _UNREADY_SECONDS:
            log.warning("%s: %s", row.name, readiness.reason)
            self._backends.update_if_unchanged(row, state="unhealthy", error=readiness.reason)

    def _measure_outage(self, name: str, readiness: probes.Readiness) -> tuple[float, float]:
        """Return the seconds since a backend was last ready, and the seconds since it last answered a probe."""
        time_now = time.monotonic()
        if readiness.answered:
            self._silent_since.pop(name, None)
        silent_seconds = 0.0 if readiness.answered else time_now - self._silent_since.setdefault(name, time_now)
        return time_now - self._unready_since.setdefault(name, time_now), silent_seconds

    def _reset_probes(self, name: str) -> None:
        self._unready_since.pop(name, None)
        self._silent_since.pop(name, None)

    def _replace(self, row: LaunchRow, reason: str) -> None:
        """Schedule the restart of a backend that ended.

        A stable backend restarts at once. A backend that ends again and again restarts after a growing delay.
        """
        started_at = datetime.fromisoformat(row.started_at).timestamp() if row.started_at else 0.0
        if row.state == "unhealthy" and row.retry_at > started_at:
            self._retry(row)  # an earlier turn recorded the end
            return
        log.warning("%s: %s", row.name, reason)
        self._reset_probes(row.name)
        earlier_failures = 0 if time.time() - started_at >= _STABLE_SECONDS else row.failures
        columns = {
            "failures": earlier_failures + 1,
            "retry_at": time.time() + get_retry_delay(earlier_failures),
            "restarts": row.restarts + 1,  # it is one restart, even if it takes several starts
        }
        if self._backends.update_if_unchanged(row, state="unhealthy", error=reason, **columns):
            self._events.collect_end(row, reason)
            self.wake()

    def _retry(self, row: LaunchRow) -> None:
        if time.time() >= row.retry_at:
            self._backends.start_if_unchanged(row)


def _describe_end(state: BackendState | None) -> str:
    """Describe which part of a backend does not run, and how it ended if that is known."""
    if state is None:
        return "both its parts are gone"
    parts = {"the server": state.server, "the worker host": state.worker}
    return "; ".join(
        f"{name} is {part.state}{f' ({part.detail})' if part.detail else ''}"
        for name, part in parts.items()
        if part.state != "running"
    )
