"""The warden, the first process of a worker host: it starts, interrupts, kills and reaps sessions for one server.

It imports nothing of the user's and runs none of the user's code. `venvd_contract.internal` declares its protocol. A
server that disconnects ends every session, because sessions live as long as the pair of server and worker host.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Type

from venvd_contract.arrays import MAX_BYTES
from venvd_contract.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_contract.internal import PROTOCOL, SOCKET, messages
from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.environment import needs_new_interpreter
from venvd_contract.internal.limits import parse_limits
from venvd_contract.internal.segments import LONGEST_NAME, MOST_SEGMENTS
from venvd_contract.internal.slots import STOP_REASONS
from venvd_worker.common import kernel, usage
from venvd_worker.common.control import ControlConnection, InvalidPacket, Packet
from venvd_worker.common.exit_status import did_not_stop, ended_by_server
from venvd_worker.common.slots import SlotMemory
from venvd_worker.warden.event_loop import EventLoop
from venvd_worker.warden.fields import passable
from venvd_worker.warden.file_transfers import FileTransfers
from venvd_worker.warden.fork_pool import Fork, ForkPool
from venvd_worker.warden.launcher import Launcher, SessionOrder, Settings
from venvd_worker.warden.listener import listen
from venvd_worker.warden.session_process import SessionProcess
from venvd_worker.warden.session_processes import SessionProcesses
from venvd_worker.warden.starter import Starter

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_REAP_EVERY = 0.1
_SHUTDOWN = 3.0
_NUDGES = 8
"""How often a call is interrupted within its grace: C code may have swallowed the first signal."""

_MOST_CLIENTS = 1 << 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

MakeForkPool = Callable[[EventLoop, Callable[[messages.ZygoteReport], None]], ForkPool]

_Answer = Tuple[Dict[str, Any], Sequence[int]]


class Request(NamedTuple):
    """A command of the server; its descriptors are closed when it is answered."""

    id: Any
    data: Any
    descriptors: Sequence[int]


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
        self._server: Optional[ControlConnection] = None
        self._memory: Optional[SlotMemory] = None
        self._grace = 2.0
        self._running = True
        self._commands: Dict[Type[Any], Callable[[Request], _Answer]] = {
            messages.Hello: self._hello,
            messages.Start: self._start,
            messages.Interrupt: self._interrupt,
            messages.Kill: self._kill,
            messages.Attach: self._attach,
            messages.TransferFile: self._transfer_file,
            messages.GetStats: self._stats,
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
        self._server = ControlConnection(accepted)
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
            session.end(ended_by_server("its server went away ({})".format(why)))
        self._sessions.reap()

    def _answer(self, server: ControlConnection, packet: Packet) -> None:
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
            kind = messages.COMMANDS.get(name) if type(name) is str else None
            if kind is None:
                known = ", ".join(messages.COMMANDS)
                raise InvalidRequest("the warden knows no command {!r}; it knows {}".format(name, known))
            if self._memory is None and kind is not messages.Hello:
                raise InvalidRequest('the first command must be "hello"')
            request = Request(message.get("id"), messages.parse(kind, message.get("data")), descriptors)
            return self._commands[kind](request)
        finally:
            close_descriptors(descriptors)

    def _hello(self, request: Request) -> _Answer:
        hello: messages.Hello = request.data
        if hello.protocol != PROTOCOL:
            raise InvalidRequest("the warden speaks protocol {}".format(PROTOCOL))
        if self._memory is not None:
            raise Conflict('"hello" was said already')
        if len(request.descriptors) != 1:
            raise InvalidRequest('"hello" takes the descriptor of the slots')
        self._grace = hello.grace
        try:
            self._memory = SlotMemory(os.dup(request.descriptors[0]), hello.slots)
        except (ValueError, OSError) as error:
            raise InvalidRequest("the slots cannot be used: {}".format(error)) from None
        python = ".".join(map(str, sys.version_info[:3]))
        greeting = messages.Greeting(
            self._settings.version, python, self._pid, self._started_at, True, self._fork_pool.report
        )
        return asdict(greeting), ()

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # ---- commands

    def _start(self, request: Request) -> _Answer:
        order = self._order(request.data)
        self._starting.add(order.name)
        answer = partial(self._launch, self._server, request.id, order)
        if needs_new_interpreter(order.env):
            answer(None)
        else:
            self._fork_pool.take(answer)
        raise _Later

    def _order(self, start: messages.Start) -> SessionOrder:
        name, memory = start.session, self._memory
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f'"{name[:80]}" is no name for a session')
        if self._sessions.get(name) is not None or name in self._starting:
            raise Conflict('the session "{}" runs already'.format(name))
        if memory is None or start.slot >= memory.count:
            raise InvalidRequest("there is no slot {}".format(start.slot))
        return SessionOrder(name, start.slot, parse_limits(start.limits), start.env, memory)

    def _launch(
        self, server: Optional[ControlConnection], number: Any, order: SessionOrder, child: Optional[Fork]
    ) -> None:
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
        server.send({"id": number, "result": vars(messages.Started(session.pid, child is not None))}, [stream])

    def _interrupt(self, request: Request) -> _Answer:
        command: messages.Interrupt = request.data
        session = self._find_session(command.session)
        if command.reason not in STOP_REASONS:
            raise InvalidRequest('"reason" must be one of {}'.format(", ".join(STOP_REASONS)))
        grace = self._grace if command.grace is None else command.grace
        session.interrupt(command.sequence, command.reason)
        for nudge in range(1, _NUDGES):
            again = partial(session.interrupt_again, command.sequence, nudge >= _NUDGES // 2)
            self._loop.later(grace * nudge / _NUDGES, again)
        self._loop.later(grace, lambda: self._insist(session, command.sequence, grace))
        return {}, ()

    def _insist(self, session: SessionProcess, sequence: int, grace: float) -> None:
        if session.alive and session.watch.runs(sequence):
            session.end(did_not_stop(grace))

    def _kill(self, request: Request) -> _Answer:
        session = self._find_session(request.data.session)
        session.waiting.append(request.id)
        session.end(ended_by_server(request.data.reason))
        self._sessions.reap()
        raise _Later

    def _attach(self, request: Request) -> _Answer:
        session = self._find_session(request.data.session)
        if not 1 <= len(request.descriptors) <= 2:
            raise InvalidRequest('"attach" takes the descriptor of a client, and one of what was read of it')
        if not session.alive or session.control.blocked:
            raise Unavailable('the session "{}" takes no clients at this moment'.format(session.name))
        session.control.send({"attach": request.data.terms}, list(map(os.dup, request.descriptors)))
        return {}, ()

    def _transfer_file(self, request: Request) -> _Answer:
        session = self._find_session(request.data.session)
        if len(request.descriptors) != 1:
            raise InvalidRequest('"file" takes the descriptor of a connection')
        return vars(messages.Started(self._file_transfers.start(session, request.data, request.descriptors[0]))), ()

    def _stats(self, _request: Request) -> _Answer:
        sessions = {session.name: session.stats() for session in self._sessions if session.alive}
        own = messages.ProcessUsage(usage.resident(self._pid), len(os.listdir("/proc/self/fd")))
        zygote = messages.ProcessUsage(self._fork_pool.resident())
        return asdict(messages.Stats(sessions, own, zygote)), ()

    def _find_session(self, name: str) -> SessionProcess:
        session = self._sessions.get(name)
        if session is None:
            raise NotFound('there is no session "{}"'.format(name))
        return session

    # ---- ends

    def came_up(self, session: SessionProcess) -> None:
        if self._server is not None:
            self._server.send({"event": "up", "data": {"session": session.name, "pid": session.pid}})

    def ended(self, session: SessionProcess, event: messages.Exited) -> None:
        if self._server is not None:
            self._server.send({"event": "exited", "data": vars(event)})
            for number in session.waiting:
                self._server.send({"id": number, "result": {}})

    def _tell_zygote(self, report: messages.ZygoteReport) -> None:
        if self._server is not None and self._memory is not None:
            self._server.send({"event": "zygote", "data": asdict(report)})

    def shared(self, session: SessionProcess, message: Dict[str, Any], descriptors: List[int]) -> None:
        """Pass on what a session says of its segments: it may say anything and often, so some is dropped."""
        news = _segment_news(message, descriptors)
        if self._server is None or self._server.blocked or news is None:
            close_descriptors(descriptors)
        else:
            data = {"session": session.name, "pid": session.pid, **news}
            self._server.send({"event": "segments", "data": data}, descriptors)

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


def _segment_news(message: Dict[str, Any], descriptors: Sequence[int]) -> Optional[Dict[str, Any]]:
    """What a session said of its segments, where it has the right form and no other size than it can have."""
    made, gone = message.get("segment"), message.get("gone")
    if type(made) is dict and len(descriptors) == 1:
        name, size = made.get("name"), made.get("size")
        if _is_segment_name(name) and type(size) is int and 0 < size <= MAX_BYTES:
            return {"name": name, "size": size}
    elif type(gone) is list and len(gone) <= MOST_SEGMENTS and not descriptors:
        return {"gone": [name for name in gone if _is_segment_name(name)]}
    return None


def _is_segment_name(name: Any) -> bool:
    return type(name) is str and len(name) <= LONGEST_NAME and name.isascii()


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor
