"""Connections for threads: each carries one exchange at a time, a pool keeps the idle ones."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator

from venvd.errors import Unavailable, Unreachable
from venvd.net.bulk import BulkReader, pieces
from venvd.net.endpoint import CHUNK, CONNECT_TIMEOUT, Endpoint, Exchange, Reader, remaining, too_late

_MAX_IDLE = 64


class _GoneError(Exception):
    """The peer closed an idle connection before it took the request, or before it answered anything."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def _open(endpoint: Endpoint, timeout: float) -> socket.socket:
    if endpoint.path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Where the listener's queue is full, only a blocking connect waits; this bounds it.
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
        # A peer whose machine is gone says nothing: without a deadline only this tells.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = endpoint.tls()
        return tls.wrap_socket(connection, server_hostname=endpoint.host) if tls else connection
    except BaseException:
        connection.close()
        raise


def connected(endpoint: Endpoint, deadline: float | None) -> socket.socket:
    """A socket that is connected to `endpoint`.

    Raises:
        Unreachable, DeadlineExceeded: nothing answers there, or not in time.
    """
    left = remaining(deadline, endpoint)
    wait = CONNECT_TIMEOUT if left is None else min(left, CONNECT_TIMEOUT)
    try:
        return _open(endpoint, wait)
    except TimeoutError:
        remaining(deadline, endpoint)
        raise Unreachable(f"nothing answers at {endpoint.url} within {wait:g} s") from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"nothing answers at {endpoint.url}: {error}") from None


class Connection:
    """One connected socket."""

    __slots__ = ("_endpoint", "_poll", "_socket", "_timeout", "fresh", "whole")

    def __init__(self, endpoint: Endpoint, deadline: float | None) -> None:
        self._socket = connected(endpoint, deadline)
        self._endpoint = endpoint
        self._timeout = self._socket.gettimeout()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.fresh = True
        self.whole = True
        """Whether every request was sent to its end."""

    def quiet(self) -> bool:
        """Whether an idle connection can be used: bytes or an end that nobody asked for say no."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, deadline: float | None) -> None:
        self._limit(deadline)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            raise self._gone(error, sent=False) from None

    def receive(self, reader: Reader, deadline: float | None) -> None:
        """Take what has come, at least one byte."""
        self._limit(deadline)
        try:
            data = self._socket.recv(CHUNK)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            if reader.started:
                raise Unavailable(f"the connection to {self._endpoint.url} broke: {error}") from None
            raise self._gone(error, sent=True) from None
        if data:
            reader.feed(data)
        elif not reader.started:
            raise self._gone(None, sent=True)
        else:
            reader.eof()

    def send_body(self, body: memoryview, deadline: float | None) -> None:
        """Send a body until it is sent, or answered before that."""
        answers_show = self._endpoint.scheme != "https"  # TLS has bytes of its own to send
        self.whole = False
        for piece in pieces(body):
            if answers_show and not self.quiet():
                return
            self._limit(deadline)
            try:
                self._socket.sendall(piece)
            except TimeoutError:
                raise too_late(self._endpoint) from None
            except OSError:
                return  # whoever closes before the end may have said why
        self.whole = True

    def receive_bulk(self, reader: BulkReader, deadline: float | None) -> None:
        """As `receive`, straight into the reader's room where there is some."""
        if not reader.room:
            self.receive(reader, deadline)
            return
        self._limit(deadline)
        try:
            count = self._socket.recv_into(reader.room)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            raise Unavailable(f"the connection to {self._endpoint.url} broke: {error}") from None
        if count:
            reader.filled(count)
        else:
            reader.eof()

    def _gone(self, error: OSError | None, *, sent: bool) -> Exception:
        if not self.fresh:
            return _GoneError(sent)
        return Unavailable(
            f"{self._endpoint.url} closed the connection without an answer" + (f": {error}" if error else "")
        )

    def _limit(self, deadline: float | None) -> None:
        timeout = None if deadline is None else remaining(deadline, self._endpoint)
        if timeout is not self._timeout:
            self._socket.settimeout(timeout)
            self._timeout = timeout


class Pool:
    """Connections to one endpoint; any thread may use it, and a forked child makes its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()
        self._closed = False

    def run(self, exchange: Exchange, deadline: float | None = None) -> None:
        """Send and read until the reader is done.

        Raises:
            Unreachable, Unavailable, DeadlineExceeded, BadReply: closed, cut or late.
        """
        connection = self._sent(exchange, deadline)
        try:
            reader = exchange.reader
            while not reader.done:
                connection.receive(reader, deadline)
        except BaseException:
            # The connection holds half an answer; closing it also tells the server that nobody waits.
            connection.close()
            raise
        self._put(connection, reader.reusable)

    def transfer(self, exchange: Exchange, reader: BulkReader, deadline: float | None = None) -> None:
        """As `run`, with a body of any size each way; `reader` is the exchange's own."""
        connection = self._sent(exchange, deadline)
        try:
            while not reader.done:
                connection.receive_bulk(reader, deadline)
        except BaseException:
            connection.close()
            raise
        self._put(connection, reader.reusable and connection.whole)

    def stream(self, exchange: Exchange, deadline: float | None = None) -> Iterator[None]:
        """The same, yielding whenever the reader may have something new; closing the iterator cancels."""
        connection = self._sent(exchange, deadline)
        reusable = False
        try:
            yield
            while not exchange.reader.done:
                connection.receive(exchange.reader, deadline)
                yield
            reusable = exchange.reader.reusable
        finally:
            self._put(connection, reusable)

    def close(self) -> None:
        self._closed = True
        self._drop()

    def __del__(self) -> None:
        self._drop()  # a client that was forgotten keeps no connections

    def _sent(self, exchange: Exchange, deadline: float | None) -> Connection:
        """A connection on which the request is sent and the answer has begun."""
        while True:
            connection = self._take(deadline)
            try:
                connection.send(exchange.data, deadline)
                if exchange.body is not None:
                    connection.send_body(exchange.body, deadline)
                connection.receive(exchange.reader, deadline)
            except _GoneError as gone:
                connection.close()
                self._drop()
                if gone.sent and not exchange.repeatable:
                    raise Unavailable(
                        f"{self.endpoint.url} closed the connection without an answer; the call may have run"
                    ) from None
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _take(self, deadline: float | None) -> Connection:
        if self._closed:
            raise Unavailable(f"the client of {self.endpoint.url} was closed")
        if self._pid != os.getpid():
            self._drop()
            self._pid = os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self.endpoint, deadline)
            if connection.quiet():
                connection.fresh = False
                return connection
            connection.close()

    def _put(self, connection: Connection, reusable: bool) -> None:
        if reusable and not self._closed and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _drop(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()
