"""All sessions of the warden: it passes on their reports, watches their limits, and reaps their processes."""

from __future__ import annotations

import os
from functools import partial
from typing import Dict, Iterator, Optional, Set

from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.messages import Refused, Up
from venvd_worker.common import directories, process_tree
from venvd_worker.common.control import InvalidPacket, Packet
from venvd_worker.common.exit_status import EndReason, explain_trace_stop
from venvd_worker.common.namespaces import SHARED_MEMORY
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.file_transfers import FileTransfers
from venvd_worker.warden.fork_pool import ForkPool
from venvd_worker.warden.forwarder_process import ForwarderProcess
from venvd_worker.warden.log_drain import LogDrain
from venvd_worker.warden.log_pipe import LogPipe
from venvd_worker.warden.server import Server
from venvd_worker.warden.session_process import SessionProcess
from venvd_worker.warden.shared_memory import SharedMemory
from venvd_worker.warden.untrusted import to_text

_LIMITS_INTERVAL, _SWEEP_INTERVAL = 0.1, 1.0
_CLOSED_GRACE = 0.5
"""Seconds that a session whose control connection is closed may take to end by itself."""
_TREE_TIMEOUT = 5.0
"""Seconds after which the warden reports the end of a session although it cannot kill some of the tree."""
_MOST_CONNECTIONS = 1 << 63


class SessionProcesses:
    """Sessions by name, from their start until their tree is gone."""

    def __init__(
        self,
        loop: EventLoop,
        fork_pool: ForkPool,
        file_transfers: FileTransfers,
        forwarder: ForwarderProcess,
        server: Server,
    ) -> None:
        self._loop = loop
        self._fork_pool = fork_pool
        self._file_transfers = file_transfers
        self._forwarder = forwarder
        self._server = server
        self._pid = os.getpid()
        self._shared_memory = SharedMemory(SHARED_MEMORY, private=self._pid == 1)
        self._by_name: Dict[str, SessionProcess] = {}
        self._own: Set[int] = set()
        """Forks of the warden that remove directories or keep reading output."""
        self._watching = False

    def __iter__(self) -> Iterator[SessionProcess]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def busy(self) -> bool:
        """Whether there is a session, or a fork of the warden that works for one."""
        return bool(self._by_name or self._own)

    def get(self, name: str) -> Optional[SessionProcess]:
        return self._by_name.get(name)

    def add(self, session: SessionProcess) -> None:
        self._by_name[session.name] = session
        self._loop.add(session.control, lambda: self._read_control(session))
        for pipe in session.logs:
            self._loop.add(pipe, partial(self._copy_log, pipe))
        self._watch_limits(session)

    def assign(self, session: SessionProcess, name: str) -> None:
        """Give a standby its name."""
        del self._by_name[session.name]
        session.name = name
        session.standby = False
        self._by_name[name] = session
        self._watch_limits(session)

    def _watch_limits(self, session: SessionProcess) -> None:
        if session.limited and not self._watching:
            self._watching = True
            self._loop.call_later(_LIMITS_INTERVAL, self._enforce_limits)

    def _enforce_limits(self) -> None:
        limited = [session for session in self if session.limited and session.alive]
        for session in limited:
            session.enforce_limits()
        self._watching = bool(limited)
        if limited:
            self._loop.call_later(_LIMITS_INTERVAL, self._enforce_limits)

    # ---- ends

    def end(self, session: SessionProcess, reason: EndReason) -> None:
        """Kill a session's whole tree."""
        self._shared_memory.look(self)
        session.end(reason)

    def reap(self) -> None:
        """Reap every child that has ended, and report each session whose whole tree has ended."""
        by_pid = {session.pid: session for session in self if session.alive}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            session = by_pid.get(pid)
            if os.WIFSTOPPED(status):  # the child asked for tracing, and would wait for the warden for ever
                if session is not None:
                    session.end(explain_trace_stop(status))
                else:
                    process_tree.kill_tree([pid])
                continue
            self._own.discard(pid)
            self._fork_pool.on_reaped(pid, status)
            self._file_transfers.forget(pid)
            self._forwarder.on_reaped(pid)
            if session is not None:
                session.status = status
                self._loop.call_later(_TREE_TIMEOUT, partial(self._finish, session))
        self._sweep()

    def sweep_regularly(self) -> None:
        """Kill strays now and every second."""
        self._sweep()
        self._file_transfers.kill_stopped()
        self._shared_memory.look(self)
        self._loop.call_later(_SWEEP_INTERVAL, self.sweep_regularly)

    def _sweep(self) -> None:
        """Kill processes that outlived their session: the warden is their parent now."""
        ended = [session for session in self if not session.alive]
        children = process_tree.list_all_children(self._pid) if ended else process_tree.list_children(self._pid)
        self._fork_pool.read_zygote()
        alive = {session.pid for session in self if session.alive}
        known = alive | self._own | self._file_transfers.pids
        owners = (self._fork_pool, self._forwarder)
        strays = [pid for pid in children if pid not in known and not any(owner.owns(pid) for owner in owners)]
        if strays:
            process_tree.kill_tree(strays)  # their SIGCHLD leads here again
            return
        for session in ended:
            self._finish(session)

    def _finish(self, session: SessionProcess) -> None:
        """Report the end of a session once, and remove what the session left."""
        if self._by_name.get(session.name) is not session:
            return
        del self._by_name[session.name]
        self._loop.remove(session.control)
        for pipe in session.logs:
            self._loop.remove(pipe)
            pipe.copy()
        self._file_transfers.kill_of(session)
        event = session.describe_end()
        session.close()
        self._remove_directory(session.directory.root)
        self._shared_memory.forget(session, self)
        self._server.send_event(event)
        for request in session.kill_requests:
            self._server.reply(request)

    def _remove_directory(self, root: str) -> None:
        """Remove a directory in another process. It may contain so many files that other sessions should not wait."""
        try:
            pid = os.fork()
        except OSError:
            directories.remove(root)
            return
        if pid:
            self._own.add(pid)
            return
        try:
            directories.remove(root)
        finally:
            os._exit(0)

    # ---- reports of a session: user code can send anything, as often as it likes

    def _read_control(self, session: SessionProcess) -> None:
        try:
            packet = session.control.receive()
        except (EOFError, InvalidPacket):
            self._loop.remove(session.control)
            reason = EndReason("exit", "closed the descriptors of its session")
            self._loop.call_later(_CLOSED_GRACE, lambda: session.end(reason))
            return
        if packet is None:
            return
        message, descriptors = packet
        if "log" in message:
            self._add_logs(session, packet)
        else:
            close_descriptors(descriptors)
            if "refused" in message:
                number = message["refused"]
                if type(number) is int and 0 <= number < _MOST_CONNECTIONS:
                    self._server.pass_on(Refused(session.name, number, to_text(message.get("why"))))
            elif not session.is_up:
                self._server.send_event(Up(session.name, session.pid))
                session.mark_up()

    def _add_logs(self, session: SessionProcess, packet: Packet) -> None:
        """Have a process keep reading what background processes write, so that they do not block."""
        if session.drain is None:
            try:
                session.drain = drain = LogDrain()
            except OSError:
                close_descriptors(packet.descriptors)
                return
            self._own.add(drain.pid)
            for pipe in drain.pipes:
                session.logs.append(pipe)
                self._loop.add(pipe, partial(self._copy_log, pipe))
        session.drain.take(packet)

    def _copy_log(self, pipe: LogPipe) -> None:
        if not pipe.copy():
            self._loop.remove(pipe)
