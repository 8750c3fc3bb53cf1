"""Brings what runs to what is wanted, again and again, from what is there and not from what happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from venvd_contract.errors import NotFound, VenvdError
from venvd_controller import probes
from venvd_controller.backends import KIND, Backends, version, wait_before
from venvd_controller.database.tables import BackendRow
from venvd_controller.operations import Operations
from venvd_engines.engine import BackendState, Engine, LaunchRecord, Owned

log = logging.getLogger("venvd.controller")

_AT_ONCE = 16
"""Backends that are looked after side by side."""
_UNREADY_SECONDS = 3.0
"""A backend that is not ready for so long counts as unhealthy."""
_SILENT_SECONDS = 60.0
"""One whose server gives no answer at all for so long is replaced."""
_STAYED_SECONDS = 60.0
"""A backend that ran for so long is started again at once when it ends."""


class Reconciler:
    """One loop in one thread; `wake` starts a turn at once.

    Attributes:
        chores: done once in each turn, after the backends.
        last_turn: Unix time of the last whole turn, 0 before the first.
        errors: turns, or backends in a turn, that failed.
        engine_error: why the engine did not answer in the last turn.
    """

    def __init__(
        self, engine: Engine, operations: Operations, backends: Backends, interval: float, grace: float
    ) -> None:
        self._engine = engine
        self._operations = operations
        self._backends = backends
        self._interval = interval
        self._grace = grace
        self.chores: list[Callable[[], None]] = []
        self.last_turn = 0.0
        self.errors = 0
        self.engine_error: str | None = None
        self._unready_since: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        self._at_work: set[str] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="reconcile")
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self.turn()
            self._wake.wait(self._interval)

    def turn(self) -> None:
        """One turn; what fails is noted and tried again in the next."""
        try:
            self._look_after_all()
        except VenvdError as error:
            self._note_away(error)
        except Exception:
            self.errors += 1
            log.exception("a turn of the reconcile loop failed")
        else:
            if self.engine_error is not None:
                log.info("the engine answers again")
            self.engine_error = None
            self._do_chores()
            self.last_turn = time.time()

    def _do_chores(self) -> None:
        for chore in self.chores:
            try:
                chore()
            except VenvdError as error:
                self.errors += 1
                log.warning("%s", error.message)
            except Exception:
                self.errors += 1
                log.exception("a chore failed")

    def _note_away(self, error: VenvdError) -> None:
        self.errors += 1
        if error.message != self.engine_error:
            log.warning("the engine: %s", error.message)
        self.engine_error = error.message

    def _look_after_all(self) -> None:
        # rows, engine, rows again: a launch that is begun meanwhile has its row in the second reading, and a backend
        # that changed between the two is left for the next turn
        before = {row.name: version(row) for row in self._backends.rows()}
        owned = {found.launch_id: found for found in self._engine.list_owned()}
        rows = self._backends.rows()
        known = {row.launch for row in rows}
        for launch_id, found in owned.items():
            if launch_id not in known:
                self._hand_out(launch_id, self._destroy_stray, found)
        starting = self._operations.targets(KIND)
        for row in rows:
            if before.get(row.name) == version(row) and row.name not in starting:
                self._hand_out(row.name, self._look_after, row, owned.get(row.launch or ""))

    def _hand_out(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        """Have work done by the pool, unless the last turn's for the same is still under way."""
        if key not in self._at_work and not self._stopping:
            self._at_work.add(key)
            self._pool.submit(self._work, key, work, *arguments)

    def _work(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except NotFound:
            pass  # gone meanwhile
        except VenvdError as error:
            self.errors += 1
            log.warning("%s: %s", key, error.message)
        except Exception:
            self.errors += 1
            log.exception("looking after %s failed", key)
        finally:
            self._at_work.discard(key)

    def _destroy_stray(self, found: Owned) -> None:
        log.info("destroying a launch that nobody wants: %s (%s)", found.name, found.launch_id)
        self._engine.destroy_owned(found)

    def _look_after(self, row: BackendRow, owned: Owned | None) -> None:
        if not row.wanted:
            self._remove(row, owned)
        elif row.record is not None and row.state in {"running", "unhealthy"}:
            self._check(row, LaunchRecord(**row.record), owned)
        elif row.state == "unhealthy" or (row.owned and row.state == "failed"):
            self._start_again(row)
        elif row.state in {"pending", "starting"}:
            self._backends.begin_again(row)

    def _remove(self, row: BackendRow, owned: Owned | None) -> None:
        if row.record is not None:
            record = LaunchRecord(**row.record)
            self._engine.stop(record, self._grace)
            self._engine.destroy(record)
        elif owned is not None:
            self._engine.destroy_owned(owned)
        self._backends.forget(row.name)
        self._forget_probes(row.name)

    def _check(self, row: BackendRow, record: LaunchRecord, owned: Owned | None) -> None:
        state = self._engine.inspect(record) if owned is not None else None
        if state is None or not state.running:
            self._replace(row, _told(state))
            return
        found = probes.readiness(record.probe_url)
        if found.ready:
            self._forget_probes(row.name)
            if row.state != "running":
                self._backends.note(row, state="running", error=None)
            return
        unready, silent = self._for_how_long(row.name, found)
        if silent >= _SILENT_SECONDS:
            self._replace(row, f"its server gave no answer for {_SILENT_SECONDS:g} s")
        elif row.state == "running" and unready >= _UNREADY_SECONDS:
            log.warning("%s: %s", row.name, found.reason)
            self._backends.note(row, state="unhealthy", error=found.reason)

    def _for_how_long(self, name: str, found: probes.Readiness) -> tuple[float, float]:
        """For how many seconds a backend has not been ready, and has not answered at all."""
        now = time.monotonic()
        if found.answered:
            self._silent_since.pop(name, None)
        silent = 0.0 if found.answered else now - self._silent_since.setdefault(name, now)
        return now - self._unready_since.setdefault(name, now), silent

    def _forget_probes(self, name: str) -> None:
        self._unready_since.pop(name, None)
        self._silent_since.pop(name, None)

    def _replace(self, row: BackendRow, reason: str) -> None:
        """Start a backend again that ended: at once where it had stayed, later and later where it keeps ending."""
        started = datetime.fromisoformat(row.started_at).timestamp() if row.started_at else 0.0
        if row.state == "unhealthy" and row.retry_at > started:
            self._start_again(row)  # its end is noted already
            return
        log.warning("%s: %s", row.name, reason)
        self._forget_probes(row.name)
        failures = 0 if time.time() - started >= _STAYED_SECONDS else row.failures
        noted = {
            "failures": failures + 1,
            "retry_at": time.time() + wait_before(failures),
            "restarts": row.restarts + 1,  # however many tries that takes
        }
        if self._backends.note(row, state="unhealthy", error=reason, **noted):
            self.wake()

    def _start_again(self, row: BackendRow) -> None:
        if time.time() >= row.retry_at:
            self._backends.begin_again(row)


def _told(state: BackendState | None) -> str:
    """Which part of a backend is gone, and how it ended where that is known."""
    if state is None:
        return "both its parts are gone"
    parts = {"the server": state.server, "the worker host": state.worker}
    gone: Sequence[str] = [
        f"{name} is {part.state}{f' ({part.detail})' if part.detail else ''}"
        for name, part in parts.items()
        if part.state != "running"
    ]
    return "; ".join(gone)
