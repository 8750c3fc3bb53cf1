"""The process that keeps reading the output of a session's background processes.

User code shares the pipes of this output. It may make them blocking at any time, and read them empty a moment before
this process does. So the warden never reads them itself. A fork of the warden reads them, which may block without harm.
It copies the output into pipes that only the warden reads.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from typing import Dict, List, NoReturn, Sequence

from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import control, kernel, process_tree
from venvd_worker.common.control import ControlConnection, InvalidPacket, Packet
from venvd_worker.warden import log_pipe
from venvd_worker.warden.log_pipe import LogPipe

_CHUNK = 4096
_MOST = 64
"""Pipes of background processes that this process reads for one session."""
_STANDARD = 3


class LogDrain:
    """The process that reads the pipes of one session.

    Attributes:
        pid: its process ID.
        pipes: the pipes that it copies the output into, for standard output and standard error.

    Raises:
        OSError: the kernel makes no process.
    """

    def __init__(self) -> None:
        own, other = control.make_pair()
        made = [log_pipe.make_pipe(target) for target in (1, 2)]
        ends = [end for _, end in made]
        warden = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            for pipe, _ in made:
                pipe.close()
            own.close()
            raise
        finally:
            if os.getpid() != warden:
                _run(warden, other.fileno(), ends)
            other.close()
            close_descriptors(ends)
        self.pipes: List[LogPipe] = [pipe for pipe, _ in made]
        self._control = own

    def take(self, packet: Packet) -> None:
        """Have the process read the pipes that came with a packet, unless earlier packets still wait for it."""
        if self._control.blocked:
            close_descriptors(packet.descriptors)
            return
        try:
            self._control.send({"target": int(packet.message["log"] == "stderr")}, packet.descriptors)
        except OSError:
            pass  # the session has used up the room for descriptors in flight

    def close(self) -> None:
        """End the process. The caller closes the pipes."""
        self._control.close()
        process_tree.send_signal(self.pid, signal.SIGKILL)


def _run(warden: int, connection: int, ends: Sequence[int]) -> NoReturn:
    """Copy until the session or the warden ends."""
    try:
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != warden:
            os._exit(0)
        os.setsid()
        connection, *ends = _keep_only([connection, *ends])
        _copy_all(control.adopt(connection), ends)
    except (EOFError, InvalidPacket, OSError):
        pass  # no pipe can come or be read any more
    finally:
        os._exit(0)


def _keep_only(descriptors: Sequence[int]) -> List[int]:
    """Close the warden's other descriptors, except 0 to 2. Return the new numbers of those that stay."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    kept = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, highest + 1) for each in descriptors]
    os.closerange(_STANDARD, highest + 1)
    return kept


def _copy_all(connection: ControlConnection, ends: Sequence[int]) -> NoReturn:
    epoll = select.epoll()
    epoll.register(connection.fileno(), select.EPOLLIN)
    targets: Dict[int, int] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == connection.fileno():
                _add(connection, epoll, targets, ends)
            elif not _copy(descriptor, targets[descriptor]):
                del targets[descriptor]
                os.close(descriptor)


def _add(connection: ControlConnection, epoll: select.epoll, targets: Dict[int, int], ends: Sequence[int]) -> None:
    packet = connection.receive()
    if packet is None:
        return
    for descriptor in packet.descriptors:
        if len(targets) < _MOST and _can_wait_for(epoll, descriptor):
            targets[descriptor] = ends[packet.message["target"]]
        else:
            os.close(descriptor)


def _can_wait_for(epoll: select.epoll, descriptor: int) -> bool:
    try:
        epoll.register(descriptor, select.EPOLLIN)
    except OSError:  # a session may send descriptors of any kind
        return False
    return True


def _copy(descriptor: int, end: int) -> bool:
    """Copy some bytes from a pipe. Return False once no process has its other end open."""
    try:
        data = os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    os.write(end, data)
    return bool(data)
