"""Couriers: short-lived processes that carry files between a session's directory and the server.

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
from venvd_worker import children, kernel, paths
from venvd_worker.directories import FILES
from venvd_worker.fields import seconds, whole
from venvd_worker.files import Bounds, Files
from venvd_worker.parcels import Gone, Parcels
from venvd_worker.ward import Ward

MOST = 32
"""Couriers under way at a time."""

_COMMANDS = ("file.get", "file.put", "file.list", "file.delete")
_LONGEST = 24 * 3600.0


class TimeIsUp(Exception):
    """The time of this courier is up."""


class Couriers:
    """The couriers of a warden."""

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._under_way: Dict[int, Ward] = {}

    def send(self, ward: Ward, task: Dict[str, Any], connection: int) -> int:
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
            self._become(ward, command, task.get("payload"), connection, largest, within)
        self._under_way[pid] = ward
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
            if children.stat_fields(pid)[:1] == [b"T"]:
                children.send(pid, signal.SIGKILL)

    def end(self, ward: Ward) -> None:
        """End those of a session whose directory goes."""
        for pid, whose in self._under_way.items():
            if whose is ward:
                children.send(pid, signal.SIGKILL)

    def _become(self, ward: Ward, command: str, payload: Any, connection: int, largest: int, within: float) -> NoReturn:
        try:
            sock = _stripped(connection)
            _bound(within, bounds := _bounds(ward, largest))
            _carry(self._work_dir, os.path.basename(ward.directory.root), command, payload, Parcels(sock), bounds)
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


def _bounds(ward: Ward, largest: int) -> Bounds:
    limit = ward.limits.fileSizeBytes
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


def _carry(work_dir: str, root: str, command: str, payload: Any, parcels: Parcels, bounds: Bounds) -> None:
    """Do it, and tell what came of it. A server that went away is told nothing."""
    try:
        directory = paths.open_root(work_dir, root, FILES)
        Files(directory, parcels, bounds).commands[command](checked(command, payload))
    except (Gone, ConnectionError):
        return
    except TimeIsUp:
        parcels.error(BY_CODE["timeout"]("the time for the file ran out"))
    except VenvdError as error:
        parcels.error(error)
    except OSError as error:
        parcels.error(paths.explain(error, []))
    except Exception as error:  # noqa: BLE001 - a defect of ours is answered
        parcels.error(Internal("the courier failed: {!r}".format(error)))
