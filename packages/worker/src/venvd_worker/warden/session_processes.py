"""The sessions of a warden: what they say, what is watched of them, and how their processes are reaped."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Protocol, Set

from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.messages import Exited
from venvd_worker.common import directories, process_tree
from venvd_worker.common.control import InvalidPacket, Packet
from venvd_worker.common.exit_status import EndReason, stopped_in_trace
from venvd_worker.warden import log_pipe
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.file_transfers import FileTransfers
from venvd_worker.warden.fork_pool import ForkPool
from venvd_worker.warden.session_process import SessionProcess

_WATCH_EVERY, _SWEEP_EVERY = 0.1, 1.0
_LINGER = 0.5
"""Seconds that a session whose control connection is closed may take to end by itself."""
_FAREWELL = 5.0
"""Seconds after which the end of a session is told although something of its tree cannot be killed."""
_MOST_LOGS = 64
"""Pipes of processes in the background that the warden reads for one session."""


class SessionListener(Protocol):
    """Who is told what becomes of sessions, and what they say."""

    def came_up(self, session: SessionProcess) -> None:
        """It takes requests from now on."""

    def ended(self, session: SessionProcess, event: Exited) -> None:
        """It is over, and this is its event."""

    def shared(self, session: SessionProcess, message: Dict[str, Any], descriptors: List[int]) -> None:
        """It made segments of memory or gave some up; the descriptors are to be closed."""

    def refused(self, session: SessionProcess, told: Dict[str, Any]) -> None:
        """It could not take a direct client."""


class SessionProcesses:
    """Sessions by name, from their start until their tree is gone.

    Args:
        fork_pool: the processes that are about to become sessions.
        file_transfers: what carries files for them, and ends with them.
    """

    def __init__(
        self, loop: EventLoop, fork_pool: ForkPool, file_transfers: FileTransfers, ear: SessionListener
    ) -> None:
        self._loop = loop
        self._fork_pool = fork_pool
        self._ear = ear
        self._pid = os.getpid()
        self._by_name: Dict[str, SessionProcess] = {}
        self._file_transfers = file_transfers
        self._helpers: Set[int] = set()
        self._watching = False

    def __iter__(self) -> Iterator[SessionProcess]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def busy(self) -> bool:
        """Whether any session is left, or work that follows its end."""
        return bool(self._by_name or self._helpers)

    def get(self, name: str) -> Optional[SessionProcess]:
        return self._by_name.get(name)

    def add(self, session: SessionProcess) -> None:
        self._by_name[session.name] = session
        self._loop.add(session.control, lambda: self._hear(session))
        for pipe in session.logs:
            self._loop.add(pipe, partial(self._pass_on, pipe))
        if session.limited:
            self._watch()

    # ---- ends

    def reap(self) -> None:
        """Take note of every process that ended, and of sessions whose whole tree has."""
        by_pid = {session.pid: session for session in self if session.alive}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if os.WIFSTOPPED(status):  # told of processes that asked for it with PTRACE_TRACEME
                self._stopped(pid, by_pid.get(pid), status)
            else:
                self._ended(pid, by_pid.get(pid), status)
        self._sweep()

    def _ended(self, pid: int, session: Optional[SessionProcess], status: int) -> None:
        self._helpers.discard(pid)
        self._fork_pool.ended(pid, status)
        self._file_transfers.forget(pid)
        if session is not None:
            session.exited(status)
            self._loop.later(_FAREWELL, partial(self._bury, session))

    def _stopped(self, pid: int, session: Optional[SessionProcess], status: int) -> None:
        """It would wait for ever for its tracer to let it go on."""
        if session is not None:
            session.end(stopped_in_trace(status))
        else:
            process_tree.kill_tree([pid])

    def keep_sweeping(self) -> None:
        """Look for strays now and every so often."""
        self._sweep()
        self._file_transfers.kill_stopped()
        self._loop.later(_SWEEP_EVERY, self.keep_sweeping)

    def _sweep(self) -> None:
        """Kill what outlived its session: with its parents gone, it became a child of this process."""
        anybody_ended = any(not session.alive for session in self)
        found = process_tree.list_all_children(self._pid) if anybody_ended else process_tree.list_children(self._pid)
        self._fork_pool.hear()
        alive = {session.pid for session in self if session.alive}
        known = alive | self._helpers | self._file_transfers.pids
        strays = [pid for pid in found if pid not in known and not self._fork_pool.owns(pid)]
        if strays:
            process_tree.kill_tree(strays)  # their end is a SIGCHLD, which leads here again
        else:
            self._tell_ended()

    def _tell_ended(self) -> None:
        for session in [session for session in self if not session.alive]:
            self._bury(session)

    def _bury(self, session: SessionProcess) -> None:
        """Tell of the end of a session, once."""
        if self._by_name.get(session.name) is not session:
            return
        del self._by_name[session.name]
        self._loop.remove(session.control)
        for pipe in session.logs:
            self._loop.remove(pipe)
            pipe.pass_on()
        self._file_transfers.kill_of(session)
        event = session.describe_end()
        session.close()
        self._remove(session.directory.root)
        self._ear.ended(session, event)

    def _remove(self, root: str) -> None:
        """In a process of its own: a session may leave more files than the others should wait for."""
        try:
            pid = os.fork()
        except OSError:
            directories.remove(root)
            return
        if pid:
            self._helpers.add(pid)
            return
        try:
            directories.remove(root)
        finally:
            os._exit(0)

    # ---- limits

    def _watch(self) -> None:
        """Look after the limits of sessions, as long as there are any that have some."""
        if not self._watching:
            self._watching = True
            self._loop.later(_WATCH_EVERY, self._check_limits)

    def _check_limits(self) -> None:
        self._watching = False
        limited = [session for session in self if session.limited and session.alive]
        for session in limited:
            session.check()
        if limited:
            self._watch()

    # ---- what they say

    def _hear(self, session: SessionProcess) -> None:
        try:
            packet = session.control.receive()
        except (EOFError, InvalidPacket):
            self._loop.remove(session.control)
            self._loop.later(_LINGER, lambda: session.end(EndReason("exit", "closed the descriptors of its session")))
            return
        if packet is None:
            return
        if "log" in packet.message:
            self._read_log(session, packet)
            return
        if "segment" in packet.message or "gone" in packet.message:
            self._ear.shared(session, packet.message, packet.descriptors)
            return
        close_descriptors(packet.descriptors)
        if "refused" in packet.message:
            self._ear.refused(session, packet.message)
        elif not session.up:
            self._ear.came_up(session)
            session.came_up()

    def _read_log(self, session: SessionProcess, packet: Packet) -> None:
        """Go on reading what processes in the background write, so that they are not held up."""
        target = 2 if packet.message["log"] == "stderr" else 1
        for descriptor in packet.descriptors:
            pipe = log_pipe.LogPipe(target, descriptor)
            if len(session.logs) < _MOST_LOGS and self._loop.try_to_add(pipe, partial(self._pass_on, pipe)):
                session.logs.append(pipe)
            else:
                pipe.close()

    def _pass_on(self, pipe: log_pipe.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)
