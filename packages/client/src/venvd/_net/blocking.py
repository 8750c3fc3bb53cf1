"""Connections for threads. Each carries one exchange at a time; a pool keeps the idle ones."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Generator

from venvd._net.bulk import BulkReader, split_view
from venvd._net.certificates import explain_failure
from venvd._net.deadlines import Deadline, deadline_exceeded, seconds_left
from venvd._net.endpoint import CHUNK, CONNECT_TIMEOUT, Endpoint, Exchange, Reader
from venvd.errors import Unavailable, Unreachable

_MAX_IDLE = 64
_SHORTEST = 0.01
"""Seconds of the shortest wait for a connection."""


class _StaleConnectionError(Exception):
    """The peer closed a reused connection before it answered. `sent` tells whether the request was sent."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def _open(endpoint: Endpoint, timeout: float) -> socket.socket:
    if endpoint.path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # If the listener's queue is full, only a blocking `connect` waits. This limits the wait.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
            connection.connect(endpoint.path)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
            connection.settimeout(timeout)
        except BlockingIOError:
            connection.close()
            raise TimeoutError from None
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((endpoint.host, endpoint.port), timeout)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without a deadline, only this notices that the peer's machine is gone.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = endpoint.tls()
        return tls.wrap_socket(connection, server_hostname=endpoint.host) if tls else connection
    except BaseException:
        connection.close()
        raise


def connect(endpoint: Endpoint, deadline: Deadline | None) -> socket.socket:
    """Return a socket that is connected to `endpoint`.

    Raises:
        Unreachable: nothing answers there.
        Unavailable: the handshake of TLS failed.
        DeadlineExceeded: the deadline has passed.
    """
    wait = CONNECT_TIMEOUT
    if deadline is not None:
        seconds_left(deadline, endpoint)
        wait = min(max(deadline.seconds_to_probe(), _SHORTEST), CONNECT_TIMEOUT)
    try:
        return _open(endpoint, wait)
    except TimeoutError:
        if wait < CONNECT_TIMEOUT:
            raise deadline_exceeded(endpoint) from None
        raise Unreachable(f"nothing answers at {endpoint.url} within {wait:g} s") from None
    except ssl.SSLError as error:
        raise Unavailable(explain_failure(endpoint.url, error)) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"nothing answers at {endpoint.url}: {error}") from None


def extend_deadline(deadline: Deadline | None, endpoint: Endpoint, answer: int) -> None:
    """Extend a deadline that has passed if the server lives: its answer begins, or it answers a ping.

    Args:
        deadline: the deadline of the exchange.
        endpoint: the address of the server.
        answer: the descriptor on which the answer comes.

    Raises:
        DeadlineExceeded: the server is silent, or the deadline was the last.
    """
    if deadline is None or deadline.is_last:
        raise deadline_exceeded(endpoint)
    if not _shows_life(deadline, endpoint, answer):
        raise deadline_exceeded(endpoint, silent=True)
    deadline.extend()


def _shows_life(deadline: Deadline, endpoint: Endpoint, answer: int) -> bool:
    poll = select.poll()
    poll.register(answer, select.POLLIN)
    with contextlib.ExitStack() as stack:
        # A failure says nothing about the server: this process may have no descriptor left.
        with contextlib.suppress(OSError, UnicodeError):
            probe = stack.enter_context(_open(endpoint, max(deadline.seconds_to_probe(), _SHORTEST)))
            if isinstance(probe, ssl.SSLSocket):
                return True  # a handshake needs both sides, so the server lives
            probe.sendall(endpoint.probe)
            poll.register(probe, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(deadline.seconds_to_probe() * 1000)]
            if answer in ready or not ready:
                return bool(ready)
            if probe.recv(1):
                return True
            poll.unregister(probe)
        return bool(poll.poll(deadline.seconds_to_probe() * 1000))


def send_all(
    connection: socket.socket, data: bytes | memoryview, deadline: Deadline | None, endpoint: Endpoint
) -> None:
    """Send bytes to their end.

    Raises:
        DeadlineExceeded: the server takes no more.
        OSError: the connection ended.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[connection.send(left) :]
        except TimeoutError:
            extend_deadline(deadline, endpoint, connection.fileno())
        else:
            if not left:
                return
        connection.settimeout(seconds_left(deadline, endpoint))


class Connection:
    """One connected socket."""

    __slots__ = ("_endpoint", "_poll", "_socket", "_timeout", "fresh", "whole")

    def __init__(self, endpoint: Endpoint, deadline: Deadline | None) -> None:
        self._socket = connect(endpoint, deadline)
        self._endpoint = endpoint
        self._timeout = self._socket.gettimeout()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.fresh = True
        self.whole = True
        """Whether the client has sent every request to its end."""

    def is_usable(self) -> bool:
        """Return whether no bytes came without a request, and the peer did not close."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, deadline: Deadline | None) -> None:
        self._set_timeout(deadline)
        try:
            send_all(self._socket, data, deadline, self._endpoint)
        except OSError as error:
            raise self._explain_end(error, sent=False) from None

    def receive(self, reader: Reader, deadline: Deadline | None) -> None:
        """Receive at least one byte and feed the reader."""
        self._set_timeout(deadline)
        try:
            data = self._socket.recv(CHUNK)
        except TimeoutError:
            extend_deadline(deadline, self._endpoint, self._socket.fileno())
            self.receive(reader, deadline)
            return
        except OSError as error:
            if reader.started:
                raise Unavailable(f"the connection to {self._endpoint.url} broke: {error}") from None
            raise self._explain_end(error, sent=True) from None
        if data:
            reader.feed(data)
        elif not reader.started:
            raise self._explain_end(None, sent=True)
        else:
            reader.eof()

    def send_body(self, body: memoryview, deadline: Deadline | None) -> None:
        """Send a body, unless an answer comes before its end."""
        answers_show = self._endpoint.scheme != "https"  # with TLS, bytes that come need not be an answer
        self.whole = False
        for piece in split_view(body):
            if answers_show and not self.is_usable():
                return
            self._set_timeout(deadline)
            try:
                send_all(self._socket, piece, deadline, self._endpoint)
            except OSError:
                return  # the peer may have sent an answer before it closed
        self.whole = True

    def receive_bulk(self, reader: BulkReader, deadline: Deadline | None) -> None:
        """Receive bytes straight into the reader's memory if it has some, else feed the reader."""
        if not reader.room:
            self.receive(reader, deadline)
            return
        self._set_timeout(deadline)
        try:
            count = self._socket.recv_into(reader.room)
        except TimeoutError:
            extend_deadline(deadline, self._endpoint, self._socket.fileno())
            return
        except OSError as error:
            raise Unavailable(f"the connection to {self._endpoint.url} broke: {error}") from None
        if count:
            reader.note_filled(count)
        else:
            reader.eof()

    def _explain_end(self, error: OSError | None, *, sent: bool) -> Exception:
        if not self.fresh:
            return _StaleConnectionError(sent)
        return Unavailable(
            f"{self._endpoint.url} closed the connection without an answer"
            + (f": {error}" if error else "")
            + self._endpoint.ended_early
        )

    def _set_timeout(self, deadline: Deadline | None) -> None:
        timeout = None if deadline is None else seconds_left(deadline, self._endpoint)
        if timeout is not self._timeout:
            self._socket.settimeout(timeout)
            self._timeout = timeout


class Pool:
    """Connections to one endpoint. Any thread may use it. A forked child makes its own connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()
        self._closed = False

    def run(self, exchange: Exchange, deadline: Deadline | None = None) -> None:
        """Send and read until the reader is done.

        Raises:
            Unreachable: nothing answers.
            Unavailable: the peer closed the connection.
            DeadlineExceeded: the answer is late.
            BadReply: the answer is not valid.
        """
        connection = self._send(exchange, deadline)
        try:
            reader = exchange.reader
            while not reader.done:
                connection.receive(reader, deadline)
        except BaseException:
            # Half an answer may be on the connection. Closing it also cancels the call.
            connection.close()
            raise
        self._put_back(connection, reader.reusable)

    def transfer(self, exchange: Exchange, reader: BulkReader, deadline: Deadline | None = None) -> None:
        """Do what `run` does with bodies of any size in both directions. `reader` is the exchange's reader."""
        connection = self._send(exchange, deadline)
        try:
            while not reader.done:
                connection.receive_bulk(reader, deadline)
        except BaseException:
            connection.close()
            raise
        self._put_back(connection, reader.reusable and connection.whole)

    def stream(self, exchange: Exchange, deadline: Deadline | None = None) -> Generator[None, None, None]:
        """Do what `run` does, and yield when the reader may have something new. Closing the iterator cancels."""
        connection = self._send(exchange, deadline)
        reusable = False
        try:
            yield
            while not exchange.reader.done:
                connection.receive(exchange.reader, deadline)
                yield
            reusable = exchange.reader.reusable
        finally:
            self._put_back(connection, reusable)

    def close(self) -> None:
        self._closed = True
        self._close_idle()

    def __del__(self) -> None:
        self._close_idle()  # so a client that the program did not close leaves no connection open

    def _send(self, exchange: Exchange, deadline: Deadline | None) -> Connection:
        """Send the request, wait for the first bytes of the answer, and return the connection."""
        while True:
            connection = self._take(deadline)
            try:
                connection.send(exchange.data, deadline)
                if exchange.body is not None:
                    connection.send_body(exchange.body, deadline)
                connection.receive(exchange.reader, deadline)
            except _StaleConnectionError as gone:
                connection.close()
                self._close_idle()
                if gone.sent and not exchange.repeatable:
                    raise Unavailable(
                        f"{self.endpoint.url} closed the connection without an answer; the call may have run"
                    ) from None
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _take(self, deadline: Deadline | None) -> Connection:
        if self._closed:
            raise Unavailable(f"the client of {self.endpoint.url} was closed")
        if self._pid != os.getpid():
            self._close_idle()
            self._pid = os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self.endpoint, deadline)
            if connection.is_usable():
                connection.fresh = False
                return connection
            connection.close()

    def _put_back(self, connection: Connection, reusable: bool) -> None:
        if reusable and not self._closed and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
