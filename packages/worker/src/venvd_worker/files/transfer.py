"""FileTransfers: short-lived processes that carry files between a session's directory and the server.

The warden must not wait for a disk and the session may be busy or hostile, so each command is a fork of the warden,
in which none of the user's code runs. It holds nothing but its end of a connection to the server.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from typing import Any, Dict, NoReturn, Set

from venvd_contract.commands import checked
from venvd_contract.errors import BY_CODE, Busy, Internal, InvalidRequest, Unavailable, VenvdError
from venvd_worker.common import kernel, process_tree
from venvd_worker.common.directories import FILES
from venvd_worker.files import paths
from venvd_worker.files.commands import Bounds, FileCommands
from venvd_worker.files.framing import FileConnection, Gone
from venvd_worker.warden.fields import seconds, whole
from venvd_worker.warden.session_process import SessionProcess

MOST = 32
"""FileTransfers under way at a time."""

_COMMANDS = ("file.get", "file.put", "file.list", "file.delete")
_LONGEST = 24 * 3600.0


class TimeIsUp(Exception):
    """The time of this courier is up."""


class FileTransfers:
    """The file_transfers of a warden."""

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._under_way: Dict[int, SessionProcess] = {}

    def send(self, session: SessionProcess, task: Dict[str, Any], connection: int) -> int:
        """The process ID of a courier that does `task` for a session, over `connection`.

        Raises:
            InvalidRequest: it is no task.
            Busy: there are too many.
            Unavailable: no process could be made.
        """
        command = task.get("command")
        if command not in _COMMANDS:
            raise InvalidRequest("a courier does {}".format(", ".join(_COMMANDS)))
        largest, within = whole(task, "largest"), min(seconds(task, "within", _LONGEST), _LONGEST)
        if len(self._under_way) >= MOST:
            raise Busy("{} files are under way already: try again".format(MOST))
        try:
            pid = os.fork()
        except OSError as error:
            raise Unavailable("the worker host cannot start a courier: {}".format(error)) from None
        if not pid:
            self._become(session, command, task.get("payload"), connection, largest, within)
        self._under_way[pid] = session
        return pid

    def ended(self, pid: int) -> bool:
        """Whether a process that ended was a courier."""
        return self._under_way.pop(pid, None) is not None

    @property
    def under_way(self) -> Set[int]:
        return set(self._under_way)

    def end_stopped(self) -> None:
        """End those that somebody stopped: only the user's code would, so that the server waits for ever."""
        for pid in self._under_way:
            if process_tree.read_stat(pid)[:1] == [b"T"]:
                process_tree.send_signal(pid, signal.SIGKILL)

    def end(self, session: SessionProcess) -> None:
        """End those of a session whose directory goes."""
        for pid, whose in self._under_way.items():
            if whose is session:
                process_tree.send_signal(pid, signal.SIGKILL)

    def _become(
        self, session: SessionProcess, command: str, payload: Any, connection: int, largest: int, within: float
    ) -> NoReturn:
        try:
            sock = _stripped(connection)
            _bound(within, bounds := _bounds(session, largest))
            _carry(
                self._work_dir, os.path.basename(session.directory.root), command, payload, FileConnection(sock), bounds
            )
        finally:
            os._exit(0)


def _stripped(connection: int) -> socket.socket:
    """Leave nothing of the warden's but the connection."""
    warden = os.getppid()
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != warden:
        os._exit(0)
    os.setsid()
    kept = os.dup2(connection, 3)
    limit = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(4, limit + 1)
    sock = socket.socket(fileno=kept)
    sock.setblocking(True)
    return sock


def _bounds(session: SessionProcess, largest: int) -> Bounds:
    limit = session.limits.fileSizeBytes
    if limit is not None and limit < largest:
        return Bounds(limit, "the session's limit fileSizeBytes")
    return Bounds(largest, "VENVD_MAX_FILE_BYTES")


def _bound(within: float, bounds: Bounds) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _ring)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.setitimer(signal.ITIMER_REAL, max(within, 0.001))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = bounds.bytes if ceiling == resource.RLIM_INFINITY else min(bounds.bytes, ceiling)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _ring(_number: int, _frame: Any) -> None:
    raise TimeIsUp


def _carry(work_dir: str, root: str, command: str, payload: Any, connection: FileConnection, bounds: Bounds) -> None:
    """Do it, and tell what came of it. A server that went away is told nothing."""
    try:
        directory = paths.open_root(work_dir, root, FILES)
        FileCommands(directory, connection, bounds).commands[command](checked(command, payload))
    except (Gone, ConnectionError):
        return
    except TimeIsUp:
        connection.error(BY_CODE["timeout"]("the time for the file ran out"))
    except VenvdError as error:
        connection.error(error)
    except OSError as error:
        connection.error(paths.explain(error, []))
    except Exception as error:  # noqa: BLE001 - a defect of ours is answered
        connection.error(Internal("the courier failed: {!r}".format(error)))
