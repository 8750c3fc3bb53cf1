"""The file processes of a warden: starts one for each file command, and ends them with their session."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Dict, Set

from venvd_contract.errors import Busy, InvalidRequest, Unavailable
from venvd_contract.internal.file_transfer import COMMANDS, MOST_TRANSFERS
from venvd_contract.internal.messages import TransferFile
from venvd_worker.common import process_tree
from venvd_worker.warden.session_process import SessionProcess

if TYPE_CHECKING:
    from venvd_worker.files.commands import SizeLimit

_LONGEST = 24 * 3600.0


class FileTransfers:
    """Starts file processes and keeps track of them."""

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._sessions: Dict[int, SessionProcess] = {}
        """The session of each file process, by process ID."""

    def start(self, session: SessionProcess, transfer: TransferFile, connection: int) -> int:
        """Start a file process that serves `connection`, and return its process ID.

        Raises:
            InvalidRequest: there is no such file command.
            Busy: too many are running.
            Unavailable: the kernel makes no process.
        """
        if transfer.command not in COMMANDS:
            raise InvalidRequest("a file process runs {}".format(", ".join(COMMANDS)))
        if len(self._sessions) >= MOST_TRANSFERS:
            raise Busy("{} files are under way already: try again".format(MOST_TRANSFERS))
        from venvd_worker.files import process  # noqa: PLC0415 - a sixth of the warden's start; forks share it

        root = os.path.basename(session.directory.root)
        task = process.Task(
            self._work_dir,
            root,
            transfer.command,
            transfer.payload,
            _size_limit(session, transfer.largest),
            min(transfer.timeout, _LONGEST),
        )
        try:
            pid = os.fork()
        except OSError as error:
            raise Unavailable("the worker host cannot start a file process: {}".format(error)) from None
        if not pid:
            process.run(task, connection)
        self._sessions[pid] = session
        return pid

    @property
    def pids(self) -> Set[int]:
        return set(self._sessions)

    def forget(self, pid: int) -> None:
        """Forget a child that the warden has reaped, if it was a file process."""
        self._sessions.pop(pid, None)

    def kill_stopped(self) -> None:
        """Kill stopped file processes. Only user code stops them, and the server would wait for them forever."""
        for pid in self._sessions:
            stat = process_tree.read_stat(pid)
            if stat is not None and stat.state == "T":
                process_tree.send_signal(pid, signal.SIGKILL)

    def kill_of(self, session: SessionProcess) -> None:
        """Kill the file processes of a session whose directory is about to be removed."""
        for pid, owner in self._sessions.items():
            if owner is session:
                process_tree.send_signal(pid, signal.SIGKILL)


def _size_limit(session: SessionProcess, largest: int) -> SizeLimit:
    from venvd_worker.files.commands import SizeLimit  # noqa: PLC0415 - as above

    limit = session.limits.fileSizeBytes
    if limit is not None and limit < largest:
        return SizeLimit(limit, "the session's limit fileSizeBytes")
    return SizeLimit(largest, "VENVD_MAX_FILE_BYTES")
