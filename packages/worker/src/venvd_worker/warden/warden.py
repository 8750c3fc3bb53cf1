"""The first process of a worker host: starts, interrupts, kills and reaps sessions for the one server it serves.

It imports nothing of the user's and runs none of its code. The protocol is that of docs/architecture.md.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import traceback
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from venvd_contract.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_worker.common import control, kernel, usage
from venvd_worker.common.control import Control, InvalidPacket, Packet
from venvd_worker.common.exit_status import killed, not_stopping
from venvd_worker.common.limits import read_limits
from venvd_worker.common.slots import REASONS, Memory
from venvd_worker.files.transfer import FileTransfers
from venvd_worker.session.segments import read_memory
from venvd_worker.warden.environment import read_at_start
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.fields import passable, seconds, text, whole
from venvd_worker.warden.fork_pool import Fork, ForkPool
from venvd_worker.warden.launcher import Launcher, SessionOrder, Settings
from venvd_worker.warden.listener import listen
from venvd_worker.warden.session_process import SessionProcess
from venvd_worker.warden.session_processes import SessionProcesses
from venvd_worker.warden.starter import Starter

PROTOCOL = 1
SOCKET = "warden.sock"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_REAP_EVERY = 0.1
_SHUTDOWN = 3.0
_NUDGES = 8
"""How often a call is interrupted within its grace: C code may have swallowed the first signal."""

_MOST_CLIENTS = 1 << 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

MakeForkPool = Callable[[EventLoop, Callable[[Dict[str, Any]], None]], ForkPool]

_Answer = Tuple[Dict[str, Any], Sequence[int]]


class _Later(Exception):
    """The answer to a request comes later."""


class Warden:
    """Serves one server at a time; a server that goes away ends its sessions."""

    def __init__(self, settings: Settings, starter: Starter, make_fork_pool: MakeForkPool) -> None:
        self._settings = settings
        self._launcher = Launcher(settings, starter)
        self._loop = EventLoop()
        self._fork_pool = make_fork_pool(self._loop, self._tell_zygote)
        self._pid = os.getpid()
        self._started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._file_transfers = FileTransfers(settings.work_dir)
        self._sessions = SessionProcesses(self._loop, self._fork_pool, self._file_transfers, self)
        self._starting: Set[str] = set()
        self._server: Optional[Control] = None
        self._memory: Optional[Memory] = None
        self._grace = 2.0
        self._running = True
        self._commands: Dict[str, Callable[[Dict[str, Any], List[int]], _Answer]] = {
            "start": self._start,
            "interrupt": self._interrupt,
            "kill": self._kill,
            "attach": self._attach,
            "courier": self._courier,
            "stats": self._stats,
        }

    def run(self) -> None:
        """Serve until a signal says to stop."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        kernel.adopt_orphans()
        kernel.hide_memory()
        self._signals = _Descriptor(kernel.signal_descriptor(_SIGNALS))
        self._listener = listen(os.path.join(self._settings.channel, SOCKET))
        self._loop.add(self._signals, self._take_signals)
        self._loop.add(self._listener, self._accept)
        self._fork_pool.start()
        self._sessions.keep_sweeping()
        while self._running:
            self._loop.turn()
        self._shut_down()

    # ---- signals and time

    def _take_signals(self) -> None:
        for number, sender in kernel.read_signals(self._signals.fileno()):
            # Process 1 listens only to those who stand outside: user code could send the same signal.
            if number != signal.SIGCHLD and (sender == 0 or self._pid != 1):
                self._running = False
        self._sessions.reap()

    # ---- the server

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        if self._server is not None or self._sessions or self._is_inside(accepted):
            accepted.close()
            return
        self._forget_memory()
        self._server = Control(accepted)
        self._loop.add(self._server, self._serve)

    def _is_inside(self, peer: socket.socket) -> bool:
        """Whether user code is calling: where this is process 1, the server is in another PID namespace."""
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
        return self._pid == 1 and int.from_bytes(credentials, sys.byteorder) != 0

    def _serve(self) -> None:
        server = self._server
        if server is None:
            return
        try:
            packet = server.receive()
        except (EOFError, InvalidPacket) as error:
            self._lose_server(str(error))
            return
        if packet is not None:
            self._answer(server, packet)

    def _lose_server(self, why: str) -> None:
        server, self._server = self._server, None
        self._starting.clear()
        if server is not None:
            self._loop.remove(server)
            server.close()
        for session in self._sessions:
            session.end(killed("its server went away ({})".format(why)))
        self._sessions.reap()

    def _answer(self, server: Control, packet: Packet) -> None:
        number = packet.message.get("id")
        try:
            result, descriptors = self._run(packet)
            server.send({"id": number, "result": result}, descriptors)
        except _Later:
            return
        except VenvdError as error:
            server.send({"id": number, "error": error.message, "code": error.code})
        except Exception as error:  # noqa: BLE001 - a defect must not end every session
            traceback.print_exc()
            server.send({"id": number, "error": "the warden failed: {!r}".format(error), "code": Internal.code})

    def _run(self, packet: Packet) -> _Answer:
        message, descriptors = packet
        name = message.get("command")
        try:
            if name == "hello":
                return self._hello(message, descriptors)
            command = self._commands.get(name) if type(name) is str else None
            if command is None:
                known = ", ".join(["hello", *self._commands])
                raise InvalidRequest("the warden knows no command {!r}; it knows {}".format(name, known))
            if self._memory is None:
                raise InvalidRequest('the first command must be "hello"')
            return command(message, descriptors)
        finally:
            control.close_all(descriptors)

    def _hello(self, message: Dict[str, Any], descriptors: List[int]) -> _Answer:
        if message.get("protocol") != PROTOCOL:
            raise InvalidRequest("the warden speaks protocol {}".format(PROTOCOL))
        if self._memory is not None:
            raise Conflict('"hello" was said already')
        if len(descriptors) != 1:
            raise InvalidRequest('"hello" takes the descriptor of the slots')
        self._grace = seconds(message, "grace", self._grace)
        try:
            self._memory = Memory(os.dup(descriptors[0]), whole(message, "slots"))
        except (ValueError, OSError) as error:
            raise InvalidRequest("the slots cannot be used: {}".format(error)) from None
        return {
            "worker": self._settings.version,
            "python": ".".join(map(str, sys.version_info[:3])),
            "pid": self._pid,
            "startedAt": self._started_at,
            "attach": True,
            "zygote": self._fork_pool.report,
        }, ()

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # ---- commands

    def _start(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        order = self._order(message)
        self._starting.add(order.name)
        answer = partial(self._launch, self._server, message.get("id"), order)
        if read_at_start(order.env):
            answer(None)
        else:
            self._fork_pool.take(answer)
        raise _Later

    def _order(self, message: Dict[str, Any]) -> SessionOrder:
        name = text(message, "session")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f'"{name[:80]}" is no name for a session')
        if self._sessions.get(name) is not None or name in self._starting:
            raise Conflict('the session "{}" runs already'.format(name))
        memory = self._memory
        index = whole(message, "slot")
        if memory is None or index >= memory.count:
            raise InvalidRequest("there is no slot {}".format(index))
        limits = read_limits(message.get("limits"))
        env = message.get("env") or {}
        if type(env) is not dict or any(type(value) is not str for value in env.values()):
            raise InvalidRequest('"env" must be an object of strings')
        return SessionOrder(name, index, limits, env, memory)

    def _launch(self, server: Optional[Control], number: Any, order: SessionOrder, child: Optional[Fork]) -> None:
        """Answer a `start`, as soon as it is known which process the session will be."""
        if server is None or server is not self._server:
            if child is not None:
                self._fork_pool.discard(child)
            return
        self._starting.discard(order.name)
        try:
            session, stream = self._launcher.launch(order, child)
        except OSError as error:
            if child is not None:
                self._fork_pool.discard(child)
            why = Unavailable("the worker host cannot start a session: {}".format(error))
            server.send({"id": number, "error": why.message, "code": why.code})
            return
        self._sessions.add(session)
        server.send({"id": number, "result": {"pid": session.pid, "forked": child is not None}}, [stream])

    def _interrupt(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        session = self._find_session(message)
        sequence = whole(message, "seq")
        reason = text(message, "reason")
        if reason not in REASONS:
            raise InvalidRequest('"reason" must be one of {}'.format(", ".join(REASONS)))
        grace = seconds(message, "grace", self._grace)
        session.interrupt(sequence, reason)
        for nudge in range(1, _NUDGES):
            again = partial(session.interrupt_again, sequence, nudge >= _NUDGES // 2)
            self._loop.later(grace * nudge / _NUDGES, again)
        self._loop.later(grace, lambda: self._insist(session, sequence, grace))
        return {}, ()

    def _insist(self, session: SessionProcess, sequence: int, grace: float) -> None:
        if session.alive and session.watch.runs(sequence):
            session.end(not_stopping(grace))

    def _kill(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        session = self._find_session(message)
        session.waiting.append(message.get("id"))
        session.end(killed(text(message, "reason", "no reason given")))
        self._sessions.reap()
        raise _Later

    def _attach(self, message: Dict[str, Any], descriptors: List[int]) -> _Answer:
        session = self._find_session(message)
        if not 1 <= len(descriptors) <= 2:
            raise InvalidRequest('"attach" takes the descriptor of a client, and one of what was read of it')
        terms = message.get("terms")
        if type(terms) is not dict:
            raise InvalidRequest('"terms" must be an object')
        if not session.alive or session.control.blocked:
            raise Unavailable('the session "{}" takes no clients at this moment'.format(session.name))
        session.control.send({"attach": terms}, list(map(os.dup, descriptors)))
        return {}, ()

    def _courier(self, message: Dict[str, Any], descriptors: List[int]) -> _Answer:
        session = self._find_session(message)
        if len(descriptors) != 1:
            raise InvalidRequest('"courier" takes the descriptor of a connection')
        return {"pid": self._file_transfers.send(session, message.get("task") or {}, descriptors[0])}, ()

    def _stats(self, _message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        sessions = {session.name: session.stats() for session in self._sessions if session.alive}
        own = {"rssBytes": usage.resident(self._pid)}
        return {"sessions": sessions, "warden": own, "zygote": {"rssBytes": self._fork_pool.resident()}}, ()

    def _find_session(self, message: Dict[str, Any]) -> SessionProcess:
        name = text(message, "session")
        session = self._sessions.get(name)
        if session is None:
            raise NotFound('there is no session "{}"'.format(name))
        return session

    # ---- ends

    def came_up(self, session: SessionProcess) -> None:
        if self._server is not None:
            self._server.send({"event": "up", "data": {"session": session.name, "pid": session.pid}})

    def ended(self, session: SessionProcess, farewell: Dict[str, Any]) -> None:
        if self._server is not None:
            self._server.send({"event": "exited", "data": farewell})
            for number in session.waiting:
                self._server.send({"id": number, "result": {}})

    def _tell_zygote(self, report: Dict[str, Any]) -> None:
        if self._server is not None and self._memory is not None:
            self._server.send({"event": "zygote", "data": report})

    def shared(self, session: SessionProcess, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Pass on what a session says of its segments: it may say anything and often, so some is dropped."""
        said = read_memory(message, descriptors)
        if self._server is None or self._server.blocked or said is None:
            control.close_all(descriptors)
        else:
            self._server.send(
                {"event": "memory", "data": {"session": session.name, "pid": session.pid, **said}}, descriptors
            )

    def refused(self, session: SessionProcess, told: Dict[str, Any]) -> None:
        """As with segments: the session may say anything."""
        number = told["refused"]
        if (
            self._server is not None
            and not self._server.blocked
            and type(number) is int
            and 0 <= number < _MOST_CLIENTS
        ):
            data = {"session": session.name, "connection": number, "why": passable(told.get("why"))}
            self._server.send({"event": "refused", "data": data})

    def _shut_down(self) -> None:
        os.unlink(os.path.join(self._settings.channel, SOCKET))
        self._fork_pool.close()
        self._lose_server("the worker host stops")
        deadline = time.monotonic() + _SHUTDOWN
        while self._sessions.busy and time.monotonic() < deadline:
            self._loop.later(_REAP_EVERY, self._sessions.reap)
            self._loop.turn()


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor
