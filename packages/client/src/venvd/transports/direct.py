"""Direct connections for threads: each carries one call at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from venvd.errors import BadReply, VenvdError
from venvd.net.blocking import connected
from venvd.net.endpoint import Endpoint, deadline_after, remaining, too_late
from venvd.net.lines import LineReader
from venvd.transports import attached
from venvd.transports.attached import Line, Lines
from venvd.transports.base import Call
from venvd_contract.framing import parse_whole

_CHUNK = 64 * 1024
"""Bytes asked for at once: the allocator maps room of 128 KiB and more anew each time, which costs more than a call."""


class _CutError(Exception):
    """The connection ended without an answer."""


class Connection:
    """One socket, which a session answers.

    Attributes:
        received: bytes of the last answer.
        clean: nothing came that was not asked for.
        process: as in `attached.Connection`.
    """

    __slots__ = ("_endpoint", "_recv", "_send", "_socket", "_timed", "clean", "process", "received")

    def __init__(self, endpoint: Endpoint, deadline: float | None) -> None:
        self._endpoint = endpoint
        self._socket = connected(endpoint, deadline)
        self._socket.settimeout(None)
        self._timed = False
        self._send = self._socket.sendall
        self._recv = self._socket.recv
        self.received = 0
        self.clean = True
        self.process: Any = None

    def close(self) -> None:
        self._socket.close()

    def exchange(self, data: bytes, deadline: float | None) -> dict[str, Any]:
        """Send one line and read the one that answers it.

        Raises:
            _CutError, DeadlineExceeded, BadReply.
        """
        if deadline is None and not self._timed:
            try:
                try:  # noqa: SIM105 - `suppress` would cost every call something
                    self._send(data)
                except BrokenPipeError:
                    pass  # what the other end said before it closed is still there
                found = self._recv(_CHUNK)
            except OSError:
                raise _CutError from None
            if not found:
                raise _CutError
        else:
            self.send(data, deadline)
            found = self.receive(deadline)
        self.received = size = len(found)
        if found.find(b"\n") != size - 1:
            return self._rest(found, deadline)
        try:
            return parse_whole(found)
        except VenvdError as error:
            raise BadReply(f"the backend's answer cannot be read: {error.message}") from None

    def send(self, data: bytes, deadline: float | None) -> None:
        if deadline is not None or self._timed:
            self._limit(deadline)
        try:
            self._send(data)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None

    def receive(self, deadline: float | None) -> bytes:
        """What has come, at least one byte."""
        if deadline is not None:
            self._limit(deadline)
        try:
            found = self._recv(_CHUNK)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError:
            raise _CutError from None
        if not found:
            raise _CutError
        return found

    def _rest(self, begun: bytes, deadline: float | None) -> dict[str, Any]:
        """An answer that came in pieces."""
        reader = LineReader()
        reader.feed(begun)
        while not reader.done:
            reader.feed(self.receive(deadline))
        self.received = reader.size
        self.clean = reader.reusable
        return reader.reply

    def _limit(self, deadline: float | None) -> None:
        self._timed = deadline is not None
        self._socket.settimeout(remaining(deadline, self._endpoint))


class Attached(Lines[Connection]):
    """The direct connections of one client; any thread may use it, and a forked child makes its own."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        super().__init__(token)
        self._endpoint = endpoint
        self._pid = os.getpid()

    def call(self, call: Call[Any]) -> dict[str, Any] | None:
        """The session's reply; None where the server is to be asked.

        Raises:
            SessionLost: the process is gone, or was since the last call.
        """
        line = self._line(call)
        if line is None:
            return None
        deadline = deadline_after(call.patience)
        connection = self._taken(line, call, deadline)
        if connection is None:
            return None
        try:
            reply = connection.exchange(attached.request(call, stream=False), deadline)
        except _CutError:
            self._cut(line, connection, call)
            return None
        except BaseException:
            # The connection holds half an answer; closing it also tells the server that nobody waits.
            line.give_up(connection)
            raise
        if self.turned_away(line, reply):
            line.give_up(connection)
            return None
        call.received = connection.received
        self._put(line, connection, reply)
        return reply

    def stream(self, call: Call[Any], reader: LineReader) -> Iterator[None] | None:
        """The same, feeding `reader` and yielding whenever it may have something new; closing it cancels the call."""
        line = self._line(call)
        deadline = deadline_after(call.patience)
        connection = None if line is None else self._taken(line, call, deadline)
        if line is None or connection is None:
            return None
        return self._stream(line, connection, call, reader, deadline)

    def _line(self, call: Call[Any]) -> Line[Connection] | None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.clear()
        return self.of(call)

    def _stream(
        self,
        line: Line[Connection],
        connection: Connection,
        call: Call[Any],
        reader: LineReader,
        deadline: float | None,
    ) -> Iterator[None]:
        try:
            connection.send(attached.request(call, stream=True), deadline)
            while not reader.done:
                reader.feed(connection.receive(deadline))
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

    def _taken(self, line: Line[Connection], call: Call[Any], deadline: float | None) -> Connection | None:
        try:
            return line.idle.pop()
        except IndexError:
            return self._made(line, call, deadline) if line.take_place() else None

    def _made(self, line: Line[Connection], call: Call[Any], deadline: float | None) -> Connection | None:
        connection = None
        try:
            connection = Connection(self._endpoint, deadline)
            welcome = connection.exchange(self.greeting(call), deadline)
            connection.process = attached.process_of(welcome)
            refused = self.refused(line, welcome) or not connection.clean
        except _CutError:
            refused = True
        except BaseException:
            line.give_up(connection)
            raise
        if refused:
            line.give_up(connection)
            return None
        return connection
