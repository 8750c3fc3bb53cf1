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
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from venvd_contract.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, Unimplemented, VenvdError
from venvd_worker import children, control, directories, kernel, logs, usage
from venvd_worker.control import Control, Garbled, Packet
from venvd_worker.endings import Verdict, killed, not_stopping
from venvd_worker.environment import session_environment
from venvd_worker.limits import read_limits
from venvd_worker.loop import Loop
from venvd_worker.slots import REASONS, Memory, Watch
from venvd_worker.starting import Starter
from venvd_worker.ward import Ward

PROTOCOL = 1
SOCKET = "warden.sock"

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_WATCH_EVERY, _SWEEP_EVERY = 0.1, 1.0
_LINGER = 0.5
"""Seconds that a session whose control connection is closed may take to end by itself."""
_FAREWELL = 5.0
"""Seconds after which the end of a session is told although something of its tree cannot be killed."""
_SHUTDOWN = 3.0
_NUDGES = 8
"""How often a call is interrupted within its grace: C code may have swallowed the first signal."""
_MOST_LOGS = 64
"""Pipes of processes in the background that the warden reads for one session."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_Answer = Tuple[Dict[str, Any], Sequence[int]]


class _Later(Exception):
    """The answer to a request comes later."""


@dataclass(frozen=True)
class Settings:
    """What the warden is started with; `work_dir` holds the sessions' directories."""

    channel: str
    work_dir: str
    version: str
    site: Optional[str]
    env: Dict[str, str]


class Warden:
    """Serves one server at a time; a server that goes away ends its sessions."""

    def __init__(self, settings: Settings, starter: Starter) -> None:
        self._settings = settings
        self._starter = starter
        self._loop = Loop()
        self._pid = os.getpid()
        self._started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._wards: Dict[str, Ward] = {}
        self._helpers: Set[int] = set()
        self._server: Optional[Control] = None
        self._memory: Optional[Memory] = None
        self._grace = 2.0
        self._number = 0
        self._running = True
        self._watching = False
        self._commands: Dict[str, Callable[[Dict[str, Any], List[int]], _Answer]] = {
            "start": self._start,
            "interrupt": self._interrupt,
            "kill": self._kill,
            "attach": self._attach,
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
        self._tick()
        while self._running:
            self._loop.turn()
        self._shut_down()

    # ---- signals and time

    def _take_signals(self) -> None:
        for number, sender in kernel.read_signals(self._signals.fileno()):
            # Process 1 listens only to those who stand outside: user code could send the same signal.
            if number != signal.SIGCHLD and (sender == 0 or self._pid != 1):
                self._running = False
        self._reap()

    def _reap(self) -> None:
        """Take note of every process that ended, and of sessions whose whole tree has."""
        by_pid = {ward.pid: ward for ward in self._wards.values() if ward.alive}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._helpers.discard(pid)
            if pid in by_pid:
                by_pid[pid].exited(status)
                self._loop.later(_FAREWELL, partial(self._bury, by_pid[pid]))
        self._sweep()

    def _sweep(self) -> None:
        """Kill what outlived its session: with its parents gone, it became a child of this process."""
        alive = {ward.pid for ward in self._wards.values() if ward.alive}
        anybody_ended = len(alive) < len(self._wards)
        found = children.all_children(self._pid) if anybody_ended else children.children(self._pid)
        strays = [pid for pid in found if pid not in alive and pid not in self._helpers]
        if strays:
            children.end(strays)  # their end is a SIGCHLD, which leads here again
        else:
            self._tell_ended()

    def _tell_ended(self) -> None:
        for ward in [ward for ward in self._wards.values() if not ward.alive]:
            self._bury(ward)

    def _tick(self) -> None:
        self._sweep()
        self._loop.later(_SWEEP_EVERY, self._tick)

    def _watch(self) -> None:
        """Look after the limits of sessions, as long as there are any that have some."""
        if not self._watching:
            self._watching = True
            self._loop.later(_WATCH_EVERY, self._check_limits)

    def _check_limits(self) -> None:
        self._watching = False
        limited = [ward for ward in self._wards.values() if ward.limited and ward.alive]
        for ward in limited:
            ward.check()
        if limited:
            self._watch()

    # ---- the server

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return
        if self._server is not None or self._wards or self._is_inside(accepted):
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
        except (EOFError, Garbled) as error:
            self._lose_server(str(error))
            return
        if packet is not None:
            self._answer(server, packet)

    def _lose_server(self, why: str) -> None:
        server, self._server = self._server, None
        if server is not None:
            self._loop.remove(server)
            server.close()
        for ward in list(self._wards.values()):
            ward.end(killed("its server went away ({})".format(why)))
        self._reap()

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
            "zygote": None,
        }, ()

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # ---- commands

    def _start(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        name = text(message, "session")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f'"{name[:80]}" is no name for a session')
        if name in self._wards:
            raise Conflict('the session "{}" runs already'.format(name))
        memory = self._memory
        index = whole(message, "slot")
        if memory is None or index >= memory.count:
            raise InvalidRequest("there is no slot {}".format(index))
        limits = read_limits(message.get("limits"))
        env = message.get("env") or {}
        if type(env) is not dict or any(type(value) is not str for value in env.values()):
            raise InvalidRequest('"env" must be an object of strings')
        try:
            ward, stream = self._launch(name, index, limits, env, memory)
        except OSError as error:
            raise Unavailable("the worker host cannot start a session: {}".format(error)) from None
        self._wards[name] = ward
        self._loop.add(ward.control, lambda: self._hear(ward))
        for pipe in ward.logs:
            self._loop.add(pipe, partial(self._pass_on, pipe))
        if ward.limited:
            self._watch()
        return {"pid": ward.pid}, [stream]

    def _launch(self, name: str, index: int, limits: Any, env: Dict[str, str], memory: Memory) -> Tuple[Ward, int]:
        self._number += 1
        directory = directories.make(self._settings.work_dir, "{}-{}".format(name, self._number))
        environment = session_environment({**self._settings.env, **env}, directory)
        mine, its = control.pair()
        server_end, session_end = socket.socketpair()
        (output, output_end), (errors, errors_end) = logs.pipe(1), logs.pipe(2)
        try:
            pid = self._starter.start(its, output_end, errors_end, environment, directory)
        except OSError:
            for end in (server_end, session_end):
                end.close()
            for pipe in (output, errors):
                pipe.close()
            mine.close()
            self._remove(directory.root)
            raise
        finally:
            its.close()
            control.close_all([output_end, errors_end])
        mine.send(
            {
                "slots": memory.count,
                "slot": index,
                "limits": vars(limits),
                "files": directory.files,
                "site": self._settings.site,
            },
            [session_end.detach(), os.dup(memory.descriptor)],
        )
        return Ward(name, pid, Watch(memory, index), limits, directory, mine, [output, errors]), server_end.detach()

    def _interrupt(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        ward = self._ward(message)
        sequence = whole(message, "seq")
        reason = text(message, "reason")
        if reason not in REASONS:
            raise InvalidRequest('"reason" must be one of {}'.format(", ".join(REASONS)))
        grace = seconds(message, "grace", self._grace)
        ward.interrupt(sequence, reason)
        for nudge in range(1, _NUDGES):
            again = partial(ward.interrupt_again, sequence, nudge >= _NUDGES // 2)
            self._loop.later(grace * nudge / _NUDGES, again)
        self._loop.later(grace, lambda: self._insist(ward, sequence, grace))
        return {}, ()

    def _insist(self, ward: Ward, sequence: int, grace: float) -> None:
        if ward.alive and ward.watch.runs(sequence):
            ward.end(not_stopping(grace))

    def _kill(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        ward = self._ward(message)
        ward.waiting.append(message.get("id"))
        ward.end(killed(text(message, "reason", "no reason given")))
        self._reap()
        raise _Later

    def _attach(self, message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        self._ward(message)
        raise Unimplemented("this worker takes no direct clients")

    def _stats(self, _message: Dict[str, Any], _descriptors: List[int]) -> _Answer:
        sessions = {name: ward.stats() for name, ward in self._wards.items() if ward.alive}
        return {"sessions": sessions, "warden": {"rssBytes": usage.resident(self._pid)}}, ()

    def _ward(self, message: Dict[str, Any]) -> Ward:
        name = text(message, "session")
        if name not in self._wards:
            raise NotFound('there is no session "{}"'.format(name))
        return self._wards[name]

    # ---- sessions

    def _hear(self, ward: Ward) -> None:
        try:
            packet = ward.control.receive()
        except (EOFError, Garbled):
            self._loop.remove(ward.control)
            self._loop.later(_LINGER, lambda: ward.end(Verdict("exit", "closed the descriptors of its session")))
            return
        if packet is None:
            return
        if "log" in packet.message:
            self._read_log(ward, packet)
            return
        control.close_all(packet.descriptors)
        ward.came_up()

    def _read_log(self, ward: Ward, packet: Packet) -> None:
        """Go on reading what processes in the background write, so that they are not held up."""
        target = 2 if packet.message["log"] == "stderr" else 1
        for descriptor in packet.descriptors:
            pipe = logs.LogPipe(target, descriptor)
            if len(ward.logs) < _MOST_LOGS and self._loop.try_to_add(pipe, partial(self._pass_on, pipe)):
                ward.logs.append(pipe)
            else:
                pipe.close()

    def _pass_on(self, pipe: logs.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)

    def _bury(self, ward: Ward) -> None:
        """Tell of the end of a session, once."""
        if self._wards.get(ward.name) is not ward:
            return
        del self._wards[ward.name]
        self._loop.remove(ward.control)
        for pipe in ward.logs:
            self._loop.remove(pipe)
            pipe.pass_on()
        farewell = ward.farewell()
        ward.close()
        self._remove(ward.directory.root)
        if self._server is not None:
            self._server.send({"event": "exited", "data": farewell})
            for number in ward.waiting:
                self._server.send({"id": number, "result": {}})

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

    def _shut_down(self) -> None:
        os.unlink(os.path.join(self._settings.channel, SOCKET))
        self._lose_server("the worker host stops")
        deadline = time.monotonic() + _SHUTDOWN
        while (self._wards or self._helpers) and time.monotonic() < deadline:
            self._loop.later(_WATCH_EVERY, self._reap)
            self._loop.turn()


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def listen(path: str) -> socket.socket:
    """A listener at `path` for this user and the group of the directory; what another warden left there is replaced."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o117)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(16)
    listener.setblocking(False)
    return listener


def text(message: Dict[str, Any], name: str, default: Optional[str] = None) -> str:
    value = message.get(name, default)
    if type(value) is not str:
        raise InvalidRequest('"{}" must be a string'.format(name))
    return value


def whole(message: Dict[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise InvalidRequest('"{}" must be a whole number from 0 on'.format(name))
    return value


def seconds(message: Dict[str, Any], name: str, default: float) -> float:
    value = message.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise InvalidRequest('"{}" must be a number of seconds from 0 on'.format(name))
    return float(value)
