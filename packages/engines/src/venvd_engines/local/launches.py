"""Launches that exist: their records, the state of their parts, their end and their logs."""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from venvd_contract.errors import Internal
from venvd_contract.resources import LogLine
from venvd_engines.engine import BackendState, LaunchRecord, Owned, PartState
from venvd_engines.local import journal, state
from venvd_engines.local.processes import Identity, boot_id, reap, send, wait_gone, wait_until
from venvd_engines.local.state import PARTS, State
from venvd_worker.common import directories
from venvd_worker.common.process_tree import kill_below

ENGINE = "local"
SOCKETS = ("pipe.sock", "http.sock")

_RETIRED = ".retired-"
_KILL_SECONDS = 5.0
_TELL_SECONDS = 1.0
_FOLLOW_SECONDS = 0.2
_MISSING = PartState("missing")


@dataclass(frozen=True)
class Place:
    """Where launches live, whose they are, and where their sockets go."""

    root: Path
    home_id: str
    run_dir: Path

    def directory(self, launch_id: str) -> Path:
        return self.root / launch_id


def to_launch_record(record: State) -> LaunchRecord:
    return LaunchRecord(ENGINE, record.launch_id, record.url, record.probe_url, {"home": record.home_id})


class Launches:
    def __init__(self, place: Place) -> None:
        self._place = place

    # ---- finding -------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[State]:
        """The records of this home that can be read."""
        for launch_id in self._ids():
            found = state.read(self._place.directory(launch_id))
            if found is not None and found.home_id == self._place.home_id:
                yield found

    def owned(self) -> list[Owned]:
        """Every launch of this home, also what a killed controller had only begun."""
        return [found for launch_id in self._ids() if (found := self._owned(launch_id)) is not None]

    def _ids(self) -> list[str]:
        try:
            return sorted(path.name for path in self._place.root.iterdir() if state.valid_id(path.name))
        except FileNotFoundError:
            return []

    def _owned(self, launch_id: str) -> Owned | None:
        record = state.read(self._place.directory(launch_id))
        if record is None:
            return Owned(launch_id, "", None, complete=False)
        if record.home_id != self._place.home_id:
            return None
        return Owned(launch_id, record.name, to_launch_record(record), complete=self.inspect(launch_id).running)

    def inspect(self, launch_id: str) -> BackendState:
        """How both parts are now."""
        wait_until(lambda: self._told(launch_id), _TELL_SECONDS)
        record = state.read(self._place.directory(launch_id))
        if record is None:
            return BackendState(_MISSING, _MISSING)
        kept = _kept(record)
        return BackendState(*(_part_state(record, name, kept=kept) for name in PARTS))

    def _told(self, launch_id: str) -> bool:
        """Whether the record says what is: a supervisor takes a moment to write down how a part ended."""
        record = state.read(self._place.directory(launch_id))
        if record is None or not _kept(record):
            return True
        running = [record.part(name).identity(record.boot) for name in PARTS if record.part(name).state == "running"]
        return all(part is None or part.alive() for part in running)

    # ---- ending --------------------------------------------------------------------------------------------------

    def stop(self, launch_id: str, grace: float) -> None:
        """End both parts: asked to first, and after `grace` seconds with all they started."""
        record = state.read(self._place.directory(launch_id))
        supervisor = None if record is None else record.supervisor_identity()
        if supervisor is not None:
            end(supervisor, grace)

    def destroy(self, launch_id: str) -> None:
        """End what runs and remove the directory and the sockets; what is not there is no error."""
        self.stop(launch_id, 0)
        directory = self._place.directory(launch_id)
        record = state.read(directory)
        # taken away at once, then deleted: what a killed removal leaves is never taken for a launch
        retired = self._place.root / f"{_RETIRED}{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):
            directory.rename(retired)
            directories.remove(str(retired))
        if record is not None and record.socket_dir is not None:
            self._remove_sockets(record.socket_dir)

    def _remove_sockets(self, socket_dir: str) -> None:
        if any(record.socket_dir == socket_dir for record in self.records()):
            return  # a later launch of the same backend serves there
        path = Path(socket_dir)
        if path.parent == self._place.run_dir:
            directories.remove(str(path))

    def sweep(self) -> None:
        """Delete what a killed removal left."""
        if self._place.root.is_dir():
            for path in self._place.root.iterdir():
                if path.name.startswith(_RETIRED):
                    directories.remove(str(path))

    # ---- logs ----------------------------------------------------------------------------------------------------

    def logs(self, launch_id: str, tail: int | None, *, follow: bool) -> Iterator[LogLine]:
        """Both parts' lines in the order of their times; with `follow` until the backend ended."""
        readers = {name: journal.Reader(self._place.directory(launch_id) / f"{name}.log") for name in PARTS}
        try:
            history = list(journal.merged({name: reader.history(tail) for name, reader in readers.items()}))
            yield from map(_log_line, history if tail is None else history[max(len(history) - tail, 0) :])
            while follow:
                # looked at before reading, so that the last lines are read
                record = state.read(self._place.directory(launch_id))
                ended = record is None or not _kept(record)
                yield from map(_log_line, journal.merged({name: reader.new() for name, reader in readers.items()}))
                if ended:
                    return
                time.sleep(_FOLLOW_SECONDS)
        finally:
            for reader in readers.values():
                reader.close()


def _kept(record: State) -> bool:
    """Whether the supervisor of a launch is there."""
    supervisor = record.supervisor_identity()
    if supervisor is not None:
        reap(supervisor.pid)
    return supervisor is not None and supervisor.alive()


def _part_state(record: State, name: str, *, kept: bool) -> PartState:
    part = record.part(name)
    if part.state == "exited":
        return PartState("exited", part.detail)
    if record.boot != boot_id():
        return PartState("exited", "ended with the machine")
    if not kept:
        return PartState("exited", "ended with its supervisor")
    identity = part.identity(record.boot)
    if identity is None:
        return PartState("missing", "is being started")
    return PartState("running") if identity.alive() else PartState("exited", "ended")


def _log_line(found: tuple[str, journal.Line]) -> LogLine:
    source, line = found
    return LogLine(line.time, source, line.stream, line.text)


def end(supervisor: Identity, grace: float) -> None:
    """End a supervisor and everything below it.

    Raises:
        Internal: something would not end.
    """
    if grace > 0 and send(supervisor, signal.SIGTERM) and wait_gone(supervisor, grace):
        return
    send(supervisor, signal.SIGQUIT)
    if wait_gone(supervisor, _KILL_SECONDS):
        return
    # it does not answer: do its work from outside, as long as it is there to hold its tree together
    if send(supervisor, signal.SIGSTOP):
        kill_below(supervisor.pid)
        send(supervisor, signal.SIGKILL)
    if not wait_gone(supervisor, _KILL_SECONDS):
        raise Internal(f"process {supervisor.pid} and what it started cannot be ended")
