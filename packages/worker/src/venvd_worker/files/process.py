"""The file process: runs one file command of a session, in a fork of the warden.

The warden must not wait for a disk, and the session may be busy or hostile. So each command has its own process. That
process runs no user code, and has only its connection to the server.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from typing import Any, NamedTuple, NoReturn, Optional

from venvd_contract.commands import check_payload
from venvd_contract.errors import DeadlineExceeded, Internal, VenvdError
from venvd_worker.common import kernel
from venvd_worker.common.directories import FILES
from venvd_worker.files import paths
from venvd_worker.files.commands import FileCommands, SizeLimit
from venvd_worker.files.framing import FileConnection, PeerGone


class Task(NamedTuple):
    """One command.

    Attributes:
        root: name of the session's directory below `work_dir`.
        size_limit: the limit of a file that the command stores.
        timeout: seconds that the whole command may take.
    """

    work_dir: str
    root: str
    command: str
    payload: Any
    size_limit: SizeLimit
    timeout: float


class TimeIsUp(Exception):
    """The time of this process is up."""


def run(task: Task, connection: int) -> NoReturn:
    """Run `task` over `connection` in this new fork, and end the process."""
    try:
        _drop_inheritance()
        sock = keep_only(connection)
        _set_bounds(task)
        _answer(task, FileConnection(sock))
    finally:
        os._exit(0)


def _drop_inheritance() -> None:
    warden = os.getppid()
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != warden:
        os._exit(0)
    os.setsid()


def keep_only(connection: int) -> socket.socket:
    """Close every descriptor of the warden's except the connection and 0 to 2."""
    kept = os.dup2(connection, 3)
    limit = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(4, limit + 1)
    sock = socket.socket(fileno=kept)
    sock.setblocking(True)
    return sock


def _set_bounds(task: Task) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _raise_time_is_up)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.setitimer(signal.ITIMER_REAL, max(task.timeout, 0.001))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, ceiling = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = task.size_limit.bytes if ceiling == resource.RLIM_INFINITY else min(task.size_limit.bytes, ceiling)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _raise_time_is_up(_number: int, _frame: Any) -> None:
    raise TimeIsUp


def _answer(task: Task, connection: FileConnection) -> None:
    """Run the command. Report its error, unless the server went away."""
    error: Optional[VenvdError] = None
    try:
        directory = paths.open_root(task.work_dir, task.root, FILES)
        commands = FileCommands(directory, connection, task.size_limit).table
        commands[task.command](check_payload(task.command, task.payload))
    except (PeerGone, ConnectionError):
        return
    except TimeIsUp:
        error = DeadlineExceeded("the time for the file ran out")
    except VenvdError as raised:
        error = raised
    except OSError as raised:
        error = paths.explain(raised, [])
    except Exception as raised:  # noqa: BLE001 - a defect of ours is answered
        error = Internal("the file process failed: {!r}".format(raised))
    if error is not None:
        connection.error(error)
