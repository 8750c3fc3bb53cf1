"""The warden, the first process of a worker host: it starts, interrupts, kills and reaps sessions for one server.

It imports no module of the user's and runs no user code. `venvd_contract.internal` declares its protocol. The warden
ends with its server, because sessions live as long as the pair of server and worker host.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Set, Type

from venvd_contract.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_contract.internal import PROTOCOL, messages
from venvd_contract.internal.control import close_descriptors
from venvd_contract.internal.environment import needs_new_interpreter
from venvd_contract.internal.limits import parse_limits
from venvd_contract.internal.slots import STOP_REASONS
from venvd_worker.common import kernel, usage
from venvd_worker.common.control import ControlConnection, InvalidPacket, Packet
from venvd_worker.common.exit_status import did_not_stop, explain_server_end
from venvd_worker.common.slots import SlotMemory
from venvd_worker.common.walls import Walls
from venvd_worker.warden.container_memory import find_session_memory, limit_memory
from venvd_worker.warden.event_loop import Descriptor, EventLoop
from venvd_worker.warden.file_transfers import FileTransfers
from venvd_worker.warden.fork_pool import Fork, ForkPool
from venvd_worker.warden.forwarder_process import ForwarderProcess
from venvd_worker.warden.launcher import Launcher, SessionOrder, Settings
from venvd_worker.warden.server import Request, Server, join
from venvd_worker.warden.session_process import SessionProcess
from venvd_worker.warden.session_processes import SessionProcesses
from venvd_worker.warden.starter import InterpreterStarter
from venvd_worker.warden.zygote_process import ZygoteSettings

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_JOIN_INTERVAL, _REAP_INTERVAL = 0.02, 0.1
_SHUTDOWN_TIMEOUT = 3.0
_INTERRUPTS = 8
"""How often the warden interrupts a call within its grace, because C code may swallow the first signal."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Warden:
    """Joins the server, and serves it until it goes away. Then the warden ends all sessions and itself."""

    def __init__(self, settings: Settings, zygote: ZygoteSettings, walls: Walls, archive: str) -> None:
        self._settings = settings
        self._loop = EventLoop()
        self._server = Server()
        self._walls = walls
        self._launcher = Launcher(settings, InterpreterStarter(archive, "session", walls, kernel.SESSION_OOM_SCORE))
        zygote_starter = InterpreterStarter(archive, "zygote", walls, kernel.ZYGOTE_OOM_SCORE)
        self._fork_pool = ForkPool(self._loop, zygote, zygote_starter, self._server)
        self._file_transfers = FileTransfers(settings.work_dir)
        self._forwarder = ForwarderProcess(self._loop, archive, settings.channel, settings.proxy_port)
        self._sessions = SessionProcesses(
            self._loop, self._fork_pool, self._file_transfers, self._forwarder, self._server
        )
        self._pid = os.getpid()
        self._started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._starting: Set[str] = set()
        """Names of sessions that wait for a fork."""
        self._memory: Optional[SlotMemory] = None
        self._session_memory = find_session_memory()
        self._grace = 2.0
        self._running = True
        self._stopping = False
        self._handlers: Dict[Type[Any], Callable[[Request], None]] = {
            messages.Hello: self._hello,
            messages.Start: self._start,
            messages.Assign: self._assign,
            messages.Interrupt: self._interrupt,
            messages.Kill: self._kill,
            messages.Attach: self._attach,
            messages.OpenVenvs: self._open_venvs,
            messages.TransferFile: self._transfer_file,
            messages.GetStats: self._stats,
        }

    def run(self) -> None:
        """Serve until the server goes away, or a stop signal comes from the parent or from outside the namespace.

        With `stop_wait`, a first stop signal leaves a connected server that long to go away by itself.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        kernel.adopt_orphans()
        kernel.hide_memory()
        signals = Descriptor(kernel.signal_descriptor(_SIGNALS))
        self._loop.add(signals, lambda: self._handle_signals(signals.fileno()))
        self._forwarder.start()
        self._join()
        self._sessions.sweep_regularly()
        while self._running:
            self._loop.run_once()
        self._shut_down()

    def _handle_signals(self, descriptor: int) -> None:
        for number, sender in kernel.read_signals(descriptor):
            # User code can send signals to the warden, too.
            if number != signal.SIGCHLD and sender in (0, os.getppid()):
                self._stop()
        self._sessions.reap()

    def _stop(self) -> None:
        """End now, or wait for the server to go: some engines signal both at once while calls of the server run."""
        if self._stopping or self._settings.stop_wait <= 0 or self._server.connection is None:
            self._running = False
            return
        self._stopping = True
        self._loop.call_later(self._settings.stop_wait, self._stop)

    def _shut_down(self) -> None:
        self._fork_pool.close()
        self._forwarder.close()
        self._lose_server("the worker host stops")
        deadline = time.monotonic() + _SHUTDOWN_TIMEOUT
        while self._sessions.busy and time.monotonic() < deadline:
            self._loop.call_later(_REAP_INTERVAL, self._sessions.reap)
            self._loop.run_once()

    # ---- the server

    def _join(self) -> None:
        """Connect to the server, now or as soon as it listens."""
        try:
            connection = join(self._settings.channel)
        except OSError:
            self._loop.call_later(_JOIN_INTERVAL, self._join)
            return
        self._server.connection = connection
        self._loop.add(connection, lambda: self._serve(connection))

    def _serve(self, connection: ControlConnection) -> None:
        try:
            packet = connection.receive()
        except (EOFError, InvalidPacket) as error:
            self._lose_server(str(error))
            return
        if packet is not None:
            self._answer(packet)

    def _lose_server(self, why: str) -> None:
        self._running = False
        connection, self._server.connection = self._server.connection, None
        self._starting.clear()
        if connection is not None:
            self._loop.remove(connection)
            connection.close()
        for session in self._sessions:
            session.end(explain_server_end("its server went away ({})".format(why)))
        self._sessions.reap()

    def _answer(self, packet: Packet) -> None:
        """Run one command. Its handler replies, now or later."""
        request = Request(packet.message.get("id"), None, packet.descriptors)
        try:
            request = self._parse(request, packet.message)
            self._handlers[type(request.data)](request)
        except VenvdError as error:
            self._server.reply_error(request, error)
        except Exception as error:  # noqa: BLE001 - a defect must not end every session
            traceback.print_exc()
            self._server.reply_error(request, Internal("the warden failed: {!r}".format(error)))
        finally:
            close_descriptors(packet.descriptors)

    def _parse(self, request: Request, message: Dict[str, Any]) -> Request:
        name = message.get("command")
        kind = messages.COMMANDS.get(name) if type(name) is str else None
        if kind is None:
            known = ", ".join(messages.COMMANDS)
            raise InvalidRequest("the warden knows no command {!r}; it knows {}".format(name, known))
        if self._memory is None and kind is not messages.Hello:
            raise InvalidRequest('the first command must be "hello"')
        return request._replace(data=messages.parse(kind, message.get("data")))

    def _hello(self, request: Request) -> None:
        hello: messages.Hello = request.data
        if hello.protocol != PROTOCOL:
            raise InvalidRequest("the warden speaks protocol {}".format(PROTOCOL))
        if self._memory is not None:
            raise Conflict('"hello" was said already')
        if len(request.descriptors) != 1:
            raise InvalidRequest('"hello" takes the descriptor of the slots')
        self._grace = hello.grace
        self._launcher.spin = hello.spin
        try:
            self._memory = SlotMemory(os.dup(request.descriptors[0]), hello.slots)
        except (ValueError, OSError) as error:
            raise InvalidRequest("the slots cannot be used: {}".format(error)) from None
        python = ".".join(map(str, sys.version_info[:3]))
        self._fork_pool.start()  # earlier, modules of the user's in a zygote could have read the secret
        version, report = self._settings.version, self._fork_pool.report
        self._server.greeted = True
        walls = messages.WallsReport(
            self._walls.landlock,
            self._walls.filtered,
            self._walls.network or not self._walls.filtered,
            os.uname().release,
            self._walls.namespaces,
        )
        greeting = messages.Greeting(version, python, self._pid, self._started_at, True, report, walls)
        self._server.reply(request, greeting)

    # ---- starting a session

    def _start(self, request: Request) -> None:
        order = self._check_start(request.data)
        if len(request.descriptors) != 2:
            raise InvalidRequest('"start" takes the descriptors of a stream and of a supply of segments')
        ends = list(map(os.dup, request.descriptors))  # the session may have to wait for a fork
        if needs_new_interpreter(order.env):
            self._launch(request, order, ends, None)
        else:
            self._starting.add(order.name)
            self._fork_pool.take(partial(self._launch, request, order, ends), order.terms)

    def _check_start(self, start: messages.Start) -> SessionOrder:
        memory = self._memory
        self._check_name(start.session)
        if memory is None or start.slot >= memory.count:
            raise InvalidRequest("there is no slot {}".format(start.slot))
        limits = limit_memory(parse_limits(start.limits), self._session_memory)
        return SessionOrder(
            start.session, start.slot, limits, start.env, start.lease, start.compat, start.standby, start.cwd, memory
        )

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidRequest('"{}" is no name for a session'.format(name[:80]))
        if self._sessions.get(name) is not None or name in self._starting:
            raise Conflict('the session "{}" runs already'.format(name))

    def _launch(self, request: Request, order: SessionOrder, ends: Sequence[int], fork: Optional[Fork]) -> None:
        """Make `fork` the session, or start a new interpreter if it is None. Close `ends`."""
        self._starting.discard(order.name)
        try:
            session = self._launcher.launch(order, ends, fork)
        except OSError as error:
            if fork is not None:
                self._fork_pool.discard(fork)
            why = "the worker host cannot start a session: {}".format(error)
            self._server.reply_error(request, Unavailable(why))
            return
        finally:
            close_descriptors(ends)
        self._sessions.add(session)
        self._server.reply(request, messages.Started(session.pid, fork is not None))

    # ---- commands to a session

    def _assign(self, request: Request) -> None:
        session = self._find_session(request.data.session)
        if not session.standby:
            raise InvalidRequest('the session "{}" has its name already'.format(session.name))
        self._check_name(request.data.name)
        self._sessions.assign(session, request.data.name)
        self._server.reply(request)

    def _interrupt(self, request: Request) -> None:
        command: messages.Interrupt = request.data
        session = self._find_session(command.session)
        if command.reason not in STOP_REASONS:
            raise InvalidRequest('"reason" must be one of {}'.format(", ".join(STOP_REASONS)))
        sequence, grace = command.sequence, self._grace if command.grace is None else command.grace

        def kill_if_running() -> None:
            if session.alive and session.slot.is_running(sequence):
                session.end(did_not_stop(grace))

        session.interrupt(sequence, command.reason)
        for count in range(1, _INTERRUPTS):
            again = partial(session.interrupt_again, sequence, group=count >= _INTERRUPTS // 2)
            self._loop.call_later(grace * count / _INTERRUPTS, again)
        self._loop.call_later(grace, kill_if_running)
        self._server.reply(request)

    def _kill(self, request: Request) -> None:
        session = self._find_session(request.data.session)
        session.kill_requests.append(request)
        self._sessions.end(session, explain_server_end(request.data.reason))
        self._sessions.reap()

    def _attach(self, request: Request) -> None:
        self._pass_on(request, {"attach": request.data.terms}, most=2)
        if kernel.IN_GVISOR:
            self._hold(request.descriptors[0])

    def _hold(self, connection: int) -> None:
        """Keep a client's connection open until the client or the server ends it.

        When the session has ended, the server answers the client over its own descriptor of this connection. In
        gVisor, the close of the last descriptor inside would end a socket of the host for all processes outside.
        """
        held = Descriptor(os.dup(connection))

        def release() -> None:
            self._loop.remove(held)
            os.close(held.fileno())

        self._loop.add(held, release, events=0)  # epoll always reports the end of a connection

    def _open_venvs(self, request: Request) -> None:
        self._pass_on(request, {"venvs": request.data.source}, most=1)

    def _pass_on(self, request: Request, message: Dict[str, Any], most: int) -> None:
        """Send a session a message with the descriptors of a request."""
        session = self._find_session(request.data.session)
        if not 1 <= len(request.descriptors) <= most:
            name = messages.NAMES[type(request.data)]
            raise InvalidRequest('"{}" takes 1 to {} descriptors, not {}'.format(name, most, len(request.descriptors)))
        if not session.alive or session.control.blocked:
            raise Unavailable('the session "{}" takes no descriptors at this moment'.format(session.name))
        try:
            session.control.send(message, list(map(os.dup, request.descriptors)))
        except OSError as error:
            raise Unavailable("the worker host cannot pass descriptors on: {}".format(error)) from None
        self._server.reply(request)

    def _transfer_file(self, request: Request) -> None:
        session = self._find_session(request.data.session)
        if len(request.descriptors) != 1:
            raise InvalidRequest('"file" takes the descriptor of a connection')
        pid = self._file_transfers.start(session, request.data, request.descriptors[0])
        self._server.reply(request, messages.Started(pid))

    def _stats(self, request: Request) -> None:
        sessions = {session.name: session.measure() for session in self._sessions if session.alive}
        own = messages.ProcessUsage(usage.resident(self._pid), len(os.listdir("/proc/self/fd")))
        zygote = messages.ProcessUsage(self._fork_pool.resident())
        self._server.reply(request, messages.Stats(sessions, own, zygote))

    def _find_session(self, name: str) -> SessionProcess:
        session = self._sessions.get(name)
        if session is None:
            raise NotFound('there is no session "{}"'.format(name))
        return session
