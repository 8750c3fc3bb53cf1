"""Direct connections for threads: each carries one call at a time."""

from __future__ import annotations

import os
import select
import socket
import weakref
from collections.abc import Generator
from typing import Any, TypeVar

from venvd._net.blocking import connect, extend_deadline
from venvd._net.deadlines import Deadline, answer_deadline, seconds_left
from venvd._net.endpoint import CHUNK, Endpoint
from venvd._net.lines import LineReader
from venvd._net.pipes import Pipes, make_pipes
from venvd._net.spinning import ClientSpinner, read_limit
from venvd._transports import direct
from venvd._transports.base import Call, Run
from venvd._transports.direct import DirectPool, DirectPools
from venvd.errors import VenvdError
from venvd_contract.commands import PIPES
from venvd_contract.framing import dump_line, parse_whole

T = TypeVar("T")

_LINE_END = ord("\n")
_ATOMIC_WRITE = select.PIPE_BUF
"""Bytes that a pipe with enough space takes in one piece."""
_PIPES = dump_line({"id": 0, "command": PIPES, "values": "tagged"})
_TIMEOUT_SLACK = 0.1
"""Seconds by which a wait may be too long. So calls with equal timeouts need not set it again."""


class _CutError(Exception):
    """The connection ended without an answer."""


class DirectConnection:
    """One connection that a session answers: a socket at first, then two pipes beside it.

    Attributes:
        received: the size of the last answer in bytes.
        clean: whether no bytes came without a request.
        process: see `direct.PooledConnection`.

    Args:
        spin: microseconds that a wait for an answer over pipes may spin.
    """

    __slots__ = (
        "_channel",
        "_endpoint",
        "_recv",
        "_send",
        "_send_some",
        "_socket",
        "_spin",
        "_spinner",
        "_switched",
        "_timeout",
        "clean",
        "process",
        "received",
    )

    def __init__(self, endpoint: Endpoint, deadline: Deadline | None, spin: int) -> None:
        self._endpoint = endpoint
        self._socket = connect(endpoint, deadline)
        self._spin = spin
        self._use(self._socket)
        self._timeout = self._socket.gettimeout()
        self.received = 0
        self.clean = True
        self._switched = False
        self.process: Any = None

    def _use(self, way: socket.socket | Pipes) -> None:
        self._channel = way
        self._send = way.send
        self._send_some = way.send if isinstance(way, socket.socket) else way.send_some
        self._recv = way.recv
        self._spinner = ClientSpinner(way.look, self._spin) if isinstance(way, Pipes) else ClientSpinner(tuple, 0)

    def close(self) -> None:
        self._socket.close()
        if self._channel is not self._socket:
            self._channel.close()
            self._channel = self._socket

    def take_pipes(self, deadline: Deadline | None) -> dict[str, Any]:
        """Make two pipes, pass the session its ends, and use the pipes from now on. Return the session's answer.

        Raises:
            _CutError, DeadlineExceeded, BadReply.
        """
        self._set_timeout(deadline)
        try:
            pipes, ends = make_pipes()
        except OSError:
            return {"error": "this process has no room for two pipes"}
        try:
            socket.send_fds(self._socket, [_PIPES], ends)
            data = self.receive(deadline)
        except VenvdError:
            pipes.close()
            raise
        except (OSError, _CutError):
            pipes.close()
            raise _CutError from None
        finally:
            for end in ends:  # now only the session has them, so the pipes end with it
                os.close(end)
        reply = self._read_rest(data, deadline)
        if "descriptors" in reply:
            reply.setdefault("error", "this backend is older than the client, and makes the pipes itself")
        if "error" in reply:
            pipes.close()
        else:
            self._use(pipes)
            self._timeout = None
        return reply

    def exchange(self, data: bytes, deadline: Deadline | None) -> dict[str, Any]:
        """Send one line and return its parsed answer.

        Raises:
            _CutError, DeadlineExceeded, BadReply.
        """
        if deadline is not None or self._timeout is not None:
            self._set_timeout(deadline)
        try:
            try:
                if len(data) > _ATOMIC_WRITE:
                    self._send_all(data, deadline)
                    self._set_timeout(deadline)  # to send a long line may have taken time
                else:
                    self._send(data)
            except BrokenPipeError:
                pass  # the pipe may still contain what the other end wrote before it closed
            spinner = self._spinner
            if spinner.skips:
                spinner.skips -= 1
            else:
                spinner.spin()
            answer = self._recv(CHUNK)
        except TimeoutError:
            extend_deadline(deadline, self._endpoint, self._channel.fileno())
            answer = self.receive(deadline)
        except OSError:
            raise _CutError from None
        if not answer:
            answer = self._receive_from_server(deadline)
        self.received = len(answer)
        try:
            if answer[-1] == _LINE_END:
                return parse_whole(answer)
        except VenvdError:
            pass  # more than one line, or an invalid one
        return self._read_rest(answer, deadline)

    def _receive_from_server(self, deadline: Deadline | None) -> bytes:
        """Switch back to the socket and return what the server says after the session ended."""
        if self._channel is self._socket:
            raise _CutError
        self._channel.close()
        self._use(self._socket)
        self._timeout = self._socket.gettimeout()
        return self.receive(deadline)

    def send(self, data: bytes, deadline: Deadline | None) -> None:
        try:
            self._send_all(data, deadline)
        except BrokenPipeError:
            pass
        except OSError:
            raise _CutError from None

    def _send_all(self, data: bytes, deadline: Deadline | None) -> None:
        left = memoryview(data)
        while left:
            self._set_timeout(deadline)
            try:
                left = left[self._send_some(left) :]
            except TimeoutError:
                extend_deadline(deadline, self._endpoint, self._channel.fileno())

    def feed(self, reader: LineReader, deadline: Deadline | None) -> None:
        """Receive bytes and feed them to `reader`."""
        data = self.receive(deadline)
        if self._switched:
            self._switched = False
            reader.discard_partial()  # the server's line does not continue half a line of the session
        reader.feed(data)

    def receive(self, deadline: Deadline | None) -> bytes:
        """Return the bytes that have come, at least one."""
        self._set_timeout(deadline)
        try:
            data = self._recv(CHUNK)
        except TimeoutError:
            extend_deadline(deadline, self._endpoint, self._channel.fileno())
            return self.receive(deadline)
        except OSError:
            raise _CutError from None
        if not data:
            data = self._receive_from_server(deadline)
            self._switched = True
        return data

    def _read_rest(self, begun: bytes, deadline: Deadline | None) -> dict[str, Any]:
        """Return an answer that came in pieces, or with more bytes after it."""
        reader = LineReader()
        reader.feed(begun)
        while not reader.done:
            self.feed(reader, deadline)
        self.received = reader.size
        self.clean = reader.reusable
        return reader.reply

    def _set_timeout(self, deadline: Deadline | None) -> None:
        left, timeout = seconds_left(deadline, self._endpoint), self._timeout
        if left is not None and timeout is not None and left <= timeout <= left + _TIMEOUT_SLACK:
            return
        self._timeout = None if left is None else left + _TIMEOUT_SLACK / 2
        if self._timeout != timeout:
            self._channel.settimeout(self._timeout)
            self._recv = self._channel.recv


class DirectCalls(DirectPools[DirectConnection]):
    """Carries calls over direct connections. Any thread may use it. A forked child makes its own connections.

    Args:
        endpoint, token: the address and the token of the backend.
        server: runs the calls that go through the server.
    """

    def __init__(self, endpoint: Endpoint, token: str | None, server: Run) -> None:
        super().__init__(token)
        self._endpoint = endpoint
        self._spin = read_limit()
        self.server = server
        _instances.add(self)

    def call(self, call: Call[T]) -> T:
        """Send one call and return its decoded reply.

        Raises:
            SessionLost: the process ended now or since the last call.
        """
        kind = call.kind
        pool = self._pools.get(kind.session)
        if pool is None or pool.lost or not kind.direct:
            pool = self.find_pool(call)
            if pool is None:
                return self._call_server(call)
        deadline = None if call.timeout is None else answer_deadline(call.timeout)
        try:
            connection = pool.idle.pop()
        except IndexError:
            made = self._connect(pool, call, deadline)
            if made is None:
                return self._call_server(call)
            connection = made
        try:
            data = direct.encode_call(call, values="")  # not earlier: the server's connection encodes for itself
        except BaseException:
            pool.idle.append(connection)
            raise
        try:
            reply = connection.exchange(data, deadline)
        except _CutError:
            self._on_cut(pool, connection, call)
            return self._call_server(call)
        except BaseException:
            # Half an answer may be on the connection. Closing it also cancels the call.
            pool.discard(connection)
            raise
        call.received = connection.received
        if "result" not in reply or self.closed:
            return self._finish(pool, connection, call, reply)
        pool.idle.append(connection)
        return call.finish(reply["result"])

    def _finish(
        self, pool: DirectPool[DirectConnection], connection: DirectConnection, call: Call[T], reply: dict[str, Any]
    ) -> T:
        """Finish a call that failed, or the call of a closed client."""
        if self.is_late_refusal(pool, reply):
            pool.discard(connection)
            return self._call_server(call)
        self._put_back(pool, connection, reply)
        return call.finish(direct.decode_reply(reply))

    def _call_server(self, call: Call[T]) -> T:
        if not direct.ends_state(call):
            return self.server(call)
        self.expect_end(call.payload["id"])
        try:
            return self.server(call)
        finally:
            self.expect_end(call.payload["id"])

    def stream(self, call: Call[Any], reader: LineReader) -> Generator[None, None, None] | None:
        """Feed `reader` and yield when it may have something new. Return None if the call must go through the server.

        Closing the iterator cancels the call.
        """
        pool = self.find_pool(call)
        if pool is None:
            return None
        deadline = answer_deadline(call.timeout)
        try:
            connection = pool.idle.pop()
        except IndexError:
            made = self._connect(pool, call, deadline)
            if made is None:
                return None
            connection = made
        return self._stream(pool, connection, call, reader, deadline)

    def _stream(
        self,
        pool: DirectPool[DirectConnection],
        connection: DirectConnection,
        call: Call[Any],
        reader: LineReader,
        deadline: Deadline | None,
    ) -> Generator[None, None, None]:
        try:
            connection.send(direct.encode_call(call, stream=True, values=""), deadline)
            while not reader.done:
                connection.feed(reader, deadline)
                yield
        except _CutError:
            self._on_cut(pool, connection, call)
            raise direct.make_cut_error(call) from None
        except BaseException:
            pool.discard(connection)
            raise
        self._put_back(pool, connection, reader.reply)

    def _on_cut(self, pool: DirectPool[DirectConnection], connection: DirectConnection, call: Call[Any]) -> None:
        pool.discard(connection)
        pool.note_end(connection, reported=not call.repeatable)
        if not call.repeatable:
            raise direct.make_cut_error(call)

    def _put_back(
        self, pool: DirectPool[DirectConnection], connection: DirectConnection, reply: dict[str, Any]
    ) -> None:
        if reply.get("stateLost"):
            pool.discard(connection)
            pool.note_end(connection, reported=True)
        elif self.closed:
            pool.discard(connection)
        else:
            pool.idle.append(connection)

    def _connect(
        self, pool: DirectPool[DirectConnection], call: Call[Any], deadline: Deadline | None
    ) -> DirectConnection | None:
        """Make one more connection, or return None if there may be no more."""
        if not self.may_connect(pool):
            return None
        connection = None
        try:
            connection = DirectConnection(self._endpoint, deadline, self._spin)
            welcome = connection.exchange(self.make_greeting(call), deadline)
            connection.process = direct.identify_process(welcome)
            refused = (
                self.is_refusal(pool, welcome)
                or not connection.clean
                or self.is_refusal(pool, connection.take_pipes(deadline))
                or not connection.clean
            )
        except _CutError:
            refused = True
        except BaseException:
            pool.discard(connection)
            raise
        if refused:
            pool.discard(connection)
            return None
        return connection


_instances: weakref.WeakSet[DirectCalls] = weakref.WeakSet()


def _abandon_all() -> None:
    for client in list(_instances):
        client.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
