"""Direct connections for threads: each carries one call at a time."""

from __future__ import annotations

import os
import select
import socket
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

from venvd.errors import VenvdError
from venvd.net.blocking import connected
from venvd.net.endpoint import CHUNK, Endpoint, deadline_after, remaining, too_late
from venvd.net.lines import LineReader
from venvd.net.pipes import Pipes
from venvd.transports import attached
from venvd.transports.attached import Line, Lines
from venvd.transports.base import Call, Run
from venvd_contract.commands import PIPES
from venvd_contract.framing import dump_line, parse_whole

T = TypeVar("T")


_LINE_END = ord("\n")
_AT_ONCE = select.PIPE_BUF
"""Bytes that a pipe with room takes whole."""
_PIPES = dump_line({"id": 0, "command": PIPES, "values": "tagged"})
_BLUNT = 0.1
"""Seconds by which a wait may be too long: calls with the same timeout then need not set it anew."""


class _CutError(Exception):
    """The connection ended without an answer."""


class Connection:
    """One connection that a session answers: a socket to begin with, then two pipes beside it.

    Attributes:
        received: bytes of the last answer.
        clean: nothing came that was not asked for.
        process: as in `attached.Connection`.
    """

    __slots__ = (
        "_dying",
        "_endpoint",
        "_recv",
        "_send",
        "_socket",
        "_timeout",
        "_way",
        "clean",
        "process",
        "received",
    )

    def __init__(self, endpoint: Endpoint, deadline: float | None) -> None:
        self._endpoint = endpoint
        self._socket = connected(endpoint, deadline)
        self._take(self._socket)
        self._timeout = self._socket.gettimeout()
        self.received = 0
        self.clean = True
        self._dying = False
        self.process: Any = None

    def _take(self, way: socket.socket | Pipes) -> None:
        self._way = way
        self._send = way.send
        self._recv = way.recv

    def close(self) -> None:
        self._socket.close()
        if self._way is not self._socket:
            self._way.close()
            self._way = self._socket

    def take_pipes(self, deadline: float | None) -> dict[str, Any]:
        """Ask for pipes, and go over to them; the answer, which is an error where they did not come.

        Raises:
            _CutError, DeadlineExceeded, BadReply.
        """
        self._limit(deadline)
        try:
            self._socket.sendall(_PIPES)
            found, descriptors, _, _ = socket.recv_fds(self._socket, CHUNK, 2, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None
        if len(descriptors) == 2:
            self._take(Pipes(*descriptors))
            self._timeout = None
        else:
            for each in descriptors:
                os.close(each)
        if not found:
            raise _CutError
        reply = self._rest(found, deadline)
        if self._way is self._socket:
            reply.setdefault("error", "this process has no room for the descriptors")
        return reply

    def exchange(self, data: bytes, deadline: float | None) -> dict[str, Any]:
        """Send one line and read the one that answers it.

        Raises:
            _CutError, DeadlineExceeded, BadReply.
        """
        if deadline is not None or self._timeout is not None:
            self._limit(deadline)
        try:
            try:
                if len(data) > _AT_ONCE:
                    self._way.sendall(data)
                    self._limit(deadline)  # what is so long may have waited to be sent
                else:
                    self._send(data)
            except BrokenPipeError:
                pass  # what the other end said before it closed is still there
            found = self._recv(CHUNK)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None
        if not found:
            found = self._last_word(deadline)
        self.received = len(found)
        try:
            if found[-1] == _LINE_END:
                return parse_whole(found)
        except VenvdError:
            pass  # more than one line, or none that can be read
        return self._rest(found, deadline)

    def _last_word(self, deadline: float | None) -> bytes:
        """What the server says when the session cannot any more."""
        if self._way is self._socket:
            raise _CutError
        self._way.close()
        self._take(self._socket)
        self._timeout = self._socket.gettimeout()
        return self.receive(deadline)

    def send(self, data: bytes, deadline: float | None) -> None:
        self._limit(deadline)
        try:
            self._way.sendall(data)
        except BrokenPipeError:
            pass
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None

    def feed(self, reader: LineReader, deadline: float | None) -> None:
        """Let `reader` have what comes."""
        found = self.receive(deadline)
        if self._dying:
            self._dying = False
            reader.cut()  # half a line of the session's is no beginning of the server's
        reader.feed(found)

    def receive(self, deadline: float | None) -> bytes:
        """What has come, at least one byte."""
        self._limit(deadline)
        try:
            found = self._recv(CHUNK)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None
        if not found:
            found = self._last_word(deadline)
            self._dying = True
        return found

    def _rest(self, begun: bytes, deadline: float | None) -> dict[str, Any]:
        """An answer that came in pieces, or with something behind it."""
        reader = LineReader()
        reader.feed(begun)
        while not reader.done:
            self.feed(reader, deadline)
        self.received = reader.size
        self.clean = reader.reusable
        return reader.reply

    def _limit(self, deadline: float | None) -> None:
        left, timeout = remaining(deadline, self._endpoint), self._timeout
        if left is not None and timeout is not None and left <= timeout <= left + _BLUNT:
            return
        self._timeout = None if left is None else left + _BLUNT / 2
        if self._timeout != timeout:
            self._way.settimeout(self._timeout)
            self._recv = self._way.recv


class Attached(Lines[Connection]):
    """The direct connections of one client; any thread may use it, and a forked child makes its own.

    Args:
        endpoint, token: of the backend.
        server: runs the calls that do not go directly.
    """

    def __init__(self, endpoint: Endpoint, token: str | None, server: Run) -> None:
        super().__init__(token)
        self._endpoint = endpoint
        self._server = server
        _clients.add(self)

    def call(self, call: Call[T]) -> T:
        """What `Transport.call` says.

        Raises:
            SessionLost: the process is gone, or was since the last call.
        """
        kind = call.kind
        line = self._lines.get(kind.session)
        if line is None or line.lost or not kind.direct:
            line = self.of(call)
            if line is None:
                return self._by_server(call)
        data = attached.request(call, values="")
        deadline = None if call.timeout is None else deadline_after(call.patience)
        try:
            connection = line.idle.pop()
        except IndexError:
            made = self._made(line, call, deadline)
            if made is None:
                return self._by_server(call)
            connection = made
        try:
            reply = connection.exchange(data, deadline)
        except _CutError:
            self._cut(line, connection, call)
            return self._by_server(call)
        except BaseException:
            # The connection holds half an answer; closing it also tells the server that nobody waits.
            line.give_up(connection)
            raise
        call.received = connection.received
        if "result" not in reply or self.closed:
            return self._ended(line, connection, call, reply)
        line.idle.append(connection)
        return call.finish(reply["result"])

    def _ended(self, line: Line[Connection], connection: Connection, call: Call[T], reply: dict[str, Any]) -> T:
        """The end of a call that went wrong, or of a client."""
        if self.turned_away(line, reply):
            line.give_up(connection)
            return self._by_server(call)
        self._put(line, connection, reply)
        return call.finish(attached.result(reply))

    def _by_server(self, call: Call[T]) -> T:
        if not attached.ends_state(call):
            return self._server(call)
        self.forget(call.payload["id"])
        try:
            return self._server(call)
        finally:
            self.forget(call.payload["id"])

    def stream(self, call: Call[Any], reader: LineReader) -> Iterator[None] | None:
        """Feed `reader`, and yield whenever it may have something new; closing it cancels the call.

        None where the server is to be asked.
        """
        line = self.of(call)
        if line is None:
            return None
        deadline = deadline_after(call.patience)
        try:
            connection = line.idle.pop()
        except IndexError:
            made = self._made(line, call, deadline)
            if made is None:
                return None
            connection = made
        return self._stream(line, connection, call, reader, deadline)

    def _stream(
        self,
        line: Line[Connection],
        connection: Connection,
        call: Call[Any],
        reader: LineReader,
        deadline: float | None,
    ) -> Iterator[None]:
        try:
            connection.send(attached.request(call, stream=True, values=""), deadline)
            while not reader.done:
                connection.feed(reader, deadline)
                yield
        except _CutError:
            self._cut(line, connection, call)
            raise attached.cut(call) from None
        except BaseException:
            line.give_up(connection)
            raise
        self._put(line, connection, reader.reply)

    def _cut(self, line: Line[Connection], connection: Connection, call: Call[Any]) -> None:
        line.give_up(connection)
        line.ended(connection, told=not call.repeatable)
        if not call.repeatable:
            raise attached.cut(call)

    def _put(self, line: Line[Connection], connection: Connection, reply: dict[str, Any]) -> None:
        if reply.get("stateLost"):
            line.give_up(connection)
            line.ended(connection, told=True)
        elif self.closed:
            line.give_up(connection)
        else:
            line.idle.append(connection)

    def _made(self, line: Line[Connection], call: Call[Any], deadline: float | None) -> Connection | None:
        """One more connection; None where there may be none."""
        if not self.may_have(line):
            return None
        connection = None
        try:
            connection = Connection(self._endpoint, deadline)
            welcome = connection.exchange(self.greeting(call), deadline)
            connection.process = attached.process_of(welcome)
            refused = (
                self.refused(line, welcome)
                or not connection.clean
                or self.refused(line, connection.take_pipes(deadline))
                or not connection.clean
            )
        except _CutError:
            refused = True
        except BaseException:
            line.give_up(connection)
            raise
        if refused:
            line.give_up(connection)
            return None
        return connection


_clients: weakref.WeakSet[Attached] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_clients):
        client.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
