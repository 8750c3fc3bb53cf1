"""Carries arrays over a Unix socket on separate connections: in shared memory, else as attachments."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import queue
import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import Any

from venvd._net.blocking import connect, extend_deadline, send_all
from venvd._net.deadlines import Deadline, answer_deadline, deadline_after, seconds_left
from venvd._net.endpoint import Endpoint
from venvd._transports.base import Call, Kind
from venvd.errors import BadReply, InvalidRequest, LimitExceeded, Unavailable, VenvdError, error_from_reply
from venvd_contract.arrays import Header
from venvd_contract.framing import Buffer, dump_line, parse_line
from venvd_contract.internal.segments import INLINE_BYTES, is_sealed

_CHUNK = 64 * 1024
_STEP = 16 << 20
"""Bytes to copy at once. Other threads wait meanwhile."""
_MAX_LENT = 16
"""The most arrays of one connection that stay in shared memory. The client copies further ones out of it."""
_MAX_IDLE = 8
_BLOCK_BYTES = 512
_GATHER = 0.05
"""Seconds in which a further array may release unused segments. Then a separate request releases them."""
_RELEASE_WITHIN = 5.0
_MAX_DESCRIPTORS = 4
_NAMES = {"array.release": "segments"}
"""The field that names released segments, for commands that do not call it `release`."""


class Abort:
    """Lets another thread end an exchange."""

    def __init__(self) -> None:
        self._connection: ArrayConnection | None = None
        self._aborted = False

    def watch(self, connection: ArrayConnection | None) -> None:
        self._connection = connection
        if self._aborted and connection is not None:
            connection.shut()

    def abort(self) -> None:
        self._aborted = True
        if (connection := self._connection) is not None:
            connection.shut()


class ArrayConnection:
    """One connection. It carries one array at a time."""

    def __init__(self, endpoint: Endpoint, token: str | None, deadline: Deadline | None) -> None:
        self._endpoint = endpoint
        self._token = token
        self._socket = connect(endpoint, deadline)
        self._buffer = Buffer()
        self._descriptors: list[int] = []
        self._segments: dict[str, _Segment] = {}
        self._lent: set[str] = set()
        self._forks = _forks.count
        self.released: deque[str] = deque()
        """Segments whose arrays have died. The garbage collector adds them in any thread."""

    @property
    def lent(self) -> int:
        """The number of this connection's arrays in shared memory."""
        return len(self._lent) - len(self.released)

    @property
    def forked(self) -> bool:
        """Whether a fork of this process may see arrays of the connection. No array may use their segments again."""
        if not self._lent:
            self._forks = _forks.count
        return self._forks != _forks.count

    def is_usable(self) -> bool:
        """Return whether no bytes came without a request, and the peer did not close."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """End the connection from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. Arrays in shared memory stay valid, because the session does not use it again."""
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    # ---- one exchange

    def ask(
        self, call: Call[Any], payload: dict[str, Any], deadline: Deadline | None, data: memoryview | None = None
    ) -> tuple[dict[str, Any], Any]:
        """Send a request and its attachment. Return the reply and its result.

        Raises:
            VenvdError: the error that the backend answered, or the connection broke.
        """
        names = [] if self.forked else [self.released.popleft() for _ in range(len(self.released))]
        if names:
            payload = {**payload, _NAMES.get(call.command, "release"): names}
        message = self._message(call, payload)
        if data is not None:
            message["attachments"] = [data.nbytes]
        self._send(memoryview(dump_line(message)), deadline)
        if data is not None:
            self._send(data, deadline)
        self._lent.difference_update(names)
        reply = self._receive_reply(deadline)
        if "error" in reply:
            raise error_from_reply(reply)
        result = reply.get("result")
        if type(result) is not dict:
            raise self._bad_reply("a reply about an array must have a result")
        for name in result.get("gone") or ():
            if (gone := self._segments.pop(name, None)) is not None:
                gone.close()
        return reply, result

    def _message(self, call: Call[Any], payload: dict[str, Any]) -> dict[str, Any]:
        fields = {
            "id": 1,
            "command": call.command,
            "payload": payload,
            "session": call.session,
            "timeout": call.timeout,
            "lease": call.lease,
            "token": self._token,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _send(self, data: memoryview, deadline: Deadline | None) -> None:
        try:
            self._socket.settimeout(seconds_left(deadline, self._endpoint))
            send_all(self._socket, data, deadline, self._endpoint)
        except OSError as error:
            if not self._has_answer():  # if a server refuses an array, it answers before it closes
                raise self._cut_error(error) from None

    def _has_answer(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _receive_reply(self, deadline: Deadline | None) -> dict[str, Any]:
        try:
            while (line := self._buffer.line()) is None:
                self._buffer.feed(self._receive(deadline))
            return parse_line(line)
        except VenvdError as error:
            if error.code in {"invalid_request", "too_large"}:
                raise self._bad_reply(error.message) from None
            raise

    def _receive(self, deadline: Deadline | None) -> bytes:
        try:
            self._socket.settimeout(seconds_left(deadline, self._endpoint))
            data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            extend_deadline(deadline, self._endpoint, self._socket.fileno())
            return self._receive(deadline)
        except OSError as error:
            raise self._cut_error(error) from None
        self._descriptors += descriptors
        if not data:
            raise self._cut_error(None)
        return data

    def receive_attachment(self, reply: dict[str, Any], deadline: Deadline | None) -> bytearray:
        """Receive the attachment of a reply."""
        sizes = reply.get("attachments")
        if type(sizes) is not list or len(sizes) != 1 or type(sizes[0]) is not int or sizes[0] < 0:
            raise self._bad_reply("an array must come as one attachment")
        content = bytearray(sizes[0])
        buffered = self._buffer.take(min(len(self._buffer), sizes[0])) or b""
        content[: len(buffered)] = buffered
        rest = memoryview(content)[len(buffered) :]
        try:
            while rest:
                self._socket.settimeout(seconds_left(deadline, self._endpoint))
                try:
                    size = self._socket.recv_into(rest)
                except TimeoutError:
                    extend_deadline(deadline, self._endpoint, self._socket.fileno())
                    continue
                if not size:
                    raise self._cut_error(None)
                rest = rest[size:]
        except OSError as error:
            raise self._cut_error(error) from None
        return content

    # ---- shared memory

    def map_segment(self, reply: dict[str, Any], result: dict[str, Any], least: int) -> mmap.mmap | None:
        """Map `least` bytes of the segment that a reply names. Return None if its descriptor did not come through.

        Raises:
            BadReply: the segment is not valid, or these bytes have no memory yet.
        """
        name, size = result.get("segment"), result.get("size")
        if type(name) is not str or type(size) is not int or size < least:
            raise self._bad_reply("a segment needs a name and the size of its array at least")
        if name not in self._segments:
            if not reply.get("descriptors") or not self._descriptors:
                return None
            self._segments[name] = _Segment(self._descriptors.pop(0))
        try:
            mapped = self._segments[name].map(least)
        except (OSError, ValueError) as error:
            raise self._bad_reply(f"a segment cannot be mapped: {error}") from None
        self._lent.add(name)
        return mapped

    def lend(self, name: str, mapped: mmap.mmap, size: int, dead: queue.SimpleQueue[Any]) -> Any:
        """Return the first bytes of a segment as an object. When the object dies, release the segment."""
        part = (ctypes.c_char * size).from_buffer(mapped)
        finalizer = weakref.finalize(part, _release, self.released, name, dead)
        finalizer.atexit = False
        return part

    def release(self, name: str) -> None:
        """Release a segment with the next request."""
        self.released.append(name)

    def note_returned(self, name: str) -> None:
        """Note that the session has a segment again, whether it accepted the array or not."""
        self._lent.discard(name)

    def _cut_error(self, error: OSError | None) -> Unavailable:
        reason = f": {error}" if error else ""
        return Unavailable(f"{self._endpoint.url} closed the connection without a whole answer{reason}")

    def _bad_reply(self, why: str) -> BadReply:
        return BadReply(f"the answer of {self._endpoint.url} is not valid: {why}")


def _release(released: deque[str], name: str, dead: queue.SimpleQueue[Any]) -> None:
    released.append(name)
    dead.put(True)


class _Segment:
    """A segment whose descriptor this process has. The session can write to it and take its pages away."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def map(self, size: int) -> mmap.mmap:
        """Map its first `size` bytes.

        Raises:
            OSError: there is no room for them.
            ValueError: the segment can shrink, is too small, or lacks pages for these bytes. To touch such bytes would
                take memory of this machine.
        """
        status = os.fstat(self._descriptor)
        if not is_sealed(self._descriptor) or status.st_size < size:
            raise ValueError("it is not sealed, or too small")
        if status.st_blocks * _BLOCK_BYTES < size:
            raise ValueError("its memory is not there")
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._descriptor, max(1, size), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        return self._map

    def close(self) -> None:
        """Close the descriptor. The mapping stays while it has users."""
        self._map = None
        os.close(self._descriptor)


class _Forks:
    """Counts the forks of this process."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.note)


class ArrayConnections:
    """The connections for the arrays of one client. Any thread may use it."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self._endpoint = endpoint
        self._token = token
        self._idle: deque[ArrayConnection] = deque()
        self._died: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closed = False
        self._shares = True
        """Whether descriptors come through. A proxy between this program and the server drops them."""

    def get(self, call: Call[Header], abort: Abort | None = None) -> tuple[Header, Any]:
        """Fetch an array; see `Transport.get_array`."""
        deadline = answer_deadline(call.timeout)
        if self._shares:
            try:
                shared: tuple[Header, Any] | None = self._run(call, deadline, abort, self._get_shared)
            except LimitExceeded:  # there is too little shared memory
                shared = None
            if shared is not None:
                return shared
        fetched: tuple[Header, Any] = self._run(call, deadline, abort, self._get_attached)
        return fetched

    def put(self, call: Call[Any], data: memoryview, abort: Abort | None = None) -> Any:
        """Send an array; see `Transport.put_array`. Return the reply's JSON."""
        deadline = answer_deadline(call.timeout)
        if self._shares and data.nbytes > INLINE_BYTES:
            reply = self._run(call, deadline, abort, self._put_shared, data)
            if reply is not None:
                return reply
        return self._run(call, deadline, abort, self._put_attached, data)

    def close(self) -> None:
        self._closed = True
        self._died.put(None)
        _close_all(self._idle)

    def __del__(self) -> None:
        self._died.put(None)
        _close_all(self._idle)

    # ---- ways to carry an array

    def _get_shared(
        self, connection: ArrayConnection, call: Call[Header], deadline: Deadline | None
    ) -> tuple[Header, Any] | None:
        reply, result = connection.ask(call, {**call.payload, "shm": True}, deadline)
        header = call.finish(result)
        if result.get("segment") is None:
            return header, _check_length(header, connection.receive_attachment(reply, deadline))
        mapped = connection.map_segment(reply, result, header.nbytes)
        if mapped is None:
            self._shares = False
            connection.release(result["segment"])
            return None
        # This copies a table, because the session could change it between its check and its use.
        if header.format is not None or connection.lent > _MAX_LENT:
            copied = bytearray(memoryview(mapped)[: header.nbytes])
            connection.release(result["segment"])
            return header, copied
        self._start_thread()
        return header, connection.lend(result["segment"], mapped, header.nbytes, self._died)

    def _get_attached(
        self, connection: ArrayConnection, call: Call[Header], deadline: Deadline | None
    ) -> tuple[Header, Any]:
        reply, result = connection.ask(call, call.payload, deadline)
        header = call.finish(result)
        return header, _check_length(header, connection.receive_attachment(reply, deadline))

    def _put_shared(
        self, connection: ArrayConnection, call: Call[Any], deadline: Deadline | None, data: memoryview
    ) -> Any:
        reply, result = connection.ask(call, {**call.payload, "shm": True}, deadline)
        mapped = connection.map_segment(reply, result, data.nbytes)
        name = result["segment"]
        if mapped is None:
            self._shares = False
            connection.release(name)
            return None
        target = memoryview(mapped)
        for start in range(0, data.nbytes, _STEP):
            end = min(start + _STEP, data.nbytes)
            target[start:end] = data[start:end]
        try:
            return connection.ask(call, {**call.payload, "segment": name}, deadline)[1]
        finally:
            connection.note_returned(name)

    def _put_attached(
        self, connection: ArrayConnection, call: Call[Any], deadline: Deadline | None, data: memoryview
    ) -> Any:
        return connection.ask(call, call.payload, deadline, data)[1]

    # ---- connections

    def _run(self, call: Call[Any], deadline: Deadline | None, abort: Abort | None, work: Any, *more: Any) -> Any:
        connection = self._take(deadline)
        if abort is not None:
            abort.watch(connection)
        try:
            result = work(connection, call, deadline, *more)
        except VenvdError as error:
            if abort is not None:
                abort.watch(None)
            if isinstance(error, BadReply | Unavailable) or error.code == "timeout":
                connection.close()
            else:
                self._put_back(connection)
            raise
        except BaseException:
            connection.close()
            raise
        if abort is not None:
            abort.watch(None)
        self._put_back(connection)
        return result

    def _take(self, deadline: Deadline | None) -> ArrayConnection:
        if self._closed:
            raise Unavailable(f"the client of {self._endpoint.url} was closed")
        if self._pid != os.getpid():
            _close_all(self._idle)
            self._pid = os.getpid()
            self._thread = None
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return ArrayConnection(self._endpoint, self._token, deadline)
            if connection.is_usable() and not connection.forked:
                return connection
            _end(connection)

    def _put_back(self, connection: ArrayConnection) -> None:
        if self._closed or len(self._idle) >= _MAX_IDLE or not connection.is_usable() or connection.forked:
            _end(connection)
        else:
            self._idle.append(connection)

    def _start_thread(self) -> None:
        """Start the thread that releases segments if no further array does."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_release_segments, args=(self._died, self._idle), name="venvd-segments", daemon=True
            )
            self._thread.start()


def _end(connection: ArrayConnection) -> None:
    """End a connection, even if a fork of this process has a copy of it."""
    connection.shut()
    connection.close()


def _release_segments(dead: queue.SimpleQueue[Any], idle: deque[ArrayConnection]) -> None:
    """Release segments over idle connections. Busy connections release theirs with their next array."""
    while dead.get() is not None:
        time.sleep(_GATHER)
        with contextlib.suppress(IndexError):
            for _ in range(len(idle)):
                connection = idle.popleft()
                if connection.forked:
                    _end(connection)
                    continue
                if connection.released:
                    try:
                        connection.ask(_RELEASE, {}, deadline_after(_RELEASE_WITHIN))
                    except VenvdError:
                        connection.close()
                        continue
                idle.append(connection)


_RELEASE: Call[Any] = Call(Kind("array.release", lambda _: None), {})


def _check_length(header: Header, content: bytearray) -> bytearray:
    try:
        header.check_length(len(content))
    except InvalidRequest as error:
        raise BadReply(f"the backend sent an array of the wrong size: {error.message}") from None
    return content


def _close_all(connections: deque[ArrayConnection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()
