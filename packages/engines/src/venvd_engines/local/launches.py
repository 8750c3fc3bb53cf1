"""Finds existing launches, reads their state and logs, and ends them."""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from venvd_contract.errors import Internal
from venvd_contract.resources import LogLine
from venvd_engines import compat, socket_names
from venvd_engines.engine import BackendState, LaunchRecord, Owned, PartState
from venvd_engines.local import journal, state
from venvd_engines.local.processes import Identity, boot_id, reap, send, wait_gone, wait_until
from venvd_engines.local.secret_files import SecretFiles
from venvd_engines.local.state import PARTS, State
from venvd_worker.common import directories
from venvd_worker.common.process_tree import kill_below

ENGINE = "local"
SOCKETS = (socket_names.PIPE, socket_names.PROBES)

_RETIRED = ".retired-"
_KILL_SECONDS = 5.0
_RECORD_SECONDS = 1.0
"""How long a supervisor may take to record the exit of a part."""
_FOLLOW_SECONDS = 0.2
_MISSING = PartState("missing")


@dataclass(frozen=True)
class Place:
    """The directories of launches, of their sockets and of the links to these; the owner, and the owner's socket.

    Attributes:
        secrets: the files of secrets.
        hidden: directories that user code does not see, except its venv.
        shared: directories that user code may read and change.
    """

    root: Path
    home_id: str
    run_dir: Path
    pipe_name_dir: Path
    secrets: SecretFiles
    controller_socket: Path | None = None
    hidden: Sequence[Path] = ()
    shared: Sequence[Path] = ()

    def directory(self, launch_id: str) -> Path:
        return self.root / launch_id


def to_launch_record(record: State) -> LaunchRecord:
    http_url = record.probe_url if "http" in record.ports else None
    data = {"home": record.home_id}
    own_url = None
    if record.socket_dir is not None:
        own_url = f"unix://{socket_names.find_own_socket(Path(record.socket_dir), record.launch_id)}"
    return LaunchRecord(
        ENGINE, record.launch_id, record.url, record.probe_url, data, http_url=http_url, own_url=own_url
    )


class Launches:
    def __init__(self, place: Place) -> None:
        self._place = place

    # ---- finding -------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[State]:
        """Yield the readable records of this home."""
        for launch_id in self._ids():
            record = state.read(self._place.directory(launch_id))
            if record is not None and record.home_id == self._place.home_id:
                yield record

    def list_owned(self) -> list[Owned]:
        """List every launch of this home, also those that a killed controller had only begun."""
        return [owned for launch_id in self._ids() if (owned := self._find_owned(launch_id)) is not None]

    def _ids(self) -> list[str]:
        try:
            return sorted(path.name for path in self._place.root.iterdir() if state.valid_id(path.name))
        except FileNotFoundError:
            return []

    def _find_owned(self, launch_id: str) -> Owned | None:
        record = state.read(self._place.directory(launch_id))
        if record is None:
            return Owned(launch_id, "", None, complete=False)
        if record.home_id != self._place.home_id:
            return None
        running = self.inspect(launch_id).running
        return Owned(launch_id, record.name, to_launch_record(record), complete=running, running=running)

    def inspect(self, launch_id: str) -> BackendState:
        """Return the state of both parts."""
        wait_until(lambda: self._is_current(launch_id), _RECORD_SECONDS)
        record = state.read(self._place.directory(launch_id))
        if record is None:
            return BackendState(_MISSING, _MISSING)
        supervised = _has_supervisor(record)
        return BackendState(*(_part_state(record, name, supervised=supervised) for name in PARTS))

    def _is_current(self, launch_id: str) -> bool:
        """Return whether the record agrees with the processes. A supervisor records an exit a moment later."""
        record = state.read(self._place.directory(launch_id))
        if record is None or not _has_supervisor(record):
            return True
        running = [record.part(name).identity(record.boot) for name in PARTS if record.part(name).state == "running"]
        return all(part is None or part.alive() for part in running)

    def write_keys(self, launch_id: str, data: bytes) -> None:
        """Replace the key file of a server, if the launch exists."""
        with contextlib.suppress(FileNotFoundError):
            state.write_whole(self._place.directory(launch_id) / state.KEYS, data.decode())

    def write_secrets(self, launch_id: str, data: bytes) -> None:
        """Replace the file of secrets of a server, if the launch exists."""
        if self._place.directory(launch_id).is_dir():
            self._place.secrets.write(launch_id, data)

    # ---- ending --------------------------------------------------------------------------------------------------

    def stop(self, launch_id: str, grace: float) -> None:
        """Ask both parts to stop. After `grace` seconds, kill them and all processes below them."""
        record = state.read(self._place.directory(launch_id))
        supervisor = None if record is None else record.supervisor_identity()
        if supervisor is not None:
            end(supervisor, grace)

    def destroy(self, launch_id: str) -> None:
        """Kill the processes, and remove the directory and the sockets. It is not an error if these are absent."""
        self.stop(launch_id, 0)
        self._place.secrets.remove(launch_id)
        directory = self._place.directory(launch_id)
        record = state.read(directory)
        # rename it first, so that a killed removal leaves no partial launch
        retired = self._place.root / f"{_RETIRED}{secrets.token_hex(6)}"
        with contextlib.suppress(FileNotFoundError):
            directory.rename(retired)
            directories.remove(str(retired))
        if record is not None and record.socket_dir is not None:
            self._remove_sockets(record.socket_dir, record.link, launch_id)

    def take_address(self, launch_id: str, former_id: str) -> None:
        """Lead the name of a socket to another launch; see `Engine.take_address`."""
        record = state.read(self._place.directory(launch_id))
        if record is not None and record.socket_dir is not None:
            socket_names.take_name(Path(record.socket_dir), launch_id, former_id)

    def _remove_sockets(self, socket_dir: str, link: str | None, launch_id: str) -> None:
        path = Path(socket_dir)
        if any(record.socket_dir == socket_dir for record in self.records()):
            socket_names.remove_own_names(path, launch_id)
            return  # another launch of the same backend serves there
        if link is not None:
            with contextlib.suppress(PermissionError):
                compat.remove_link(Path(link), path / SOCKETS[0])
        if path.parent == self._place.run_dir:
            directories.remove(str(path))

    def sweep(self) -> None:
        """Remove what killed removals left."""
        if self._place.root.is_dir():
            for path in self._place.root.iterdir():
                if path.name.startswith(_RETIRED):
                    directories.remove(str(path))

    # ---- logs ----------------------------------------------------------------------------------------------------

    def logs(self, launch_id: str, tail: int | None, *, follow: bool) -> Iterator[LogLine]:
        """Yield the lines of both parts in the order of their times; with `follow`, until the backend ends."""
        readers = {name: journal.Reader(self._place.directory(launch_id) / f"{name}.log") for name in PARTS}
        try:
            history = list(journal.merge({name: reader.history(tail) for name, reader in readers.items()}))
            yield from map(_log_line, history if tail is None else history[max(len(history) - tail, 0) :])
            while follow:
                # check before reading, so that the last lines are read
                record = state.read(self._place.directory(launch_id))
                ended = record is None or not _has_supervisor(record)
                yield from map(_log_line, journal.merge({name: reader.new() for name, reader in readers.items()}))
                if ended:
                    return
                time.sleep(_FOLLOW_SECONDS)
        finally:
            for reader in readers.values():
                reader.close()


def _has_supervisor(record: State) -> bool:
    """Return whether the supervisor of a launch runs."""
    supervisor = record.supervisor_identity()
    if supervisor is not None:
        reap(supervisor.pid)
    return supervisor is not None and supervisor.alive()


def _part_state(record: State, name: str, *, supervised: bool) -> PartState:
    part = record.part(name)
    if part.state == "exited":
        return PartState("exited", part.detail)
    if record.boot != boot_id():
        return PartState("exited", "ended with the machine")
    if not supervised:
        return PartState("exited", "ended with its supervisor")
    identity = part.identity(record.boot)
    if identity is None:
        return PartState("missing", "is being started")
    return PartState("running") if identity.alive() else PartState("exited", "ended")


def _log_line(labelled: tuple[str, journal.JournalLine]) -> LogLine:
    source, line = labelled
    return LogLine(line.time, source, line.stream, line.text)


def end(supervisor: Identity, grace: float) -> None:
    """End a supervisor and everything below it.

    Raises:
        Internal: a process does not end.
    """
    if grace > 0 and send(supervisor, signal.SIGTERM) and wait_gone(supervisor, grace):
        return
    send(supervisor, signal.SIGQUIT)
    if wait_gone(supervisor, _KILL_SECONDS):
        return
    # it does not answer: kill the tree from outside, while the supervisor is still its root
    if send(supervisor, signal.SIGSTOP):
        kill_below(supervisor.pid)
        send(supervisor, signal.SIGKILL)
    if not wait_gone(supervisor, _KILL_SECONDS):
        raise Internal(f"process {supervisor.pid} and the processes below it do not end")
