"""Arrays over a Unix socket, on connections of their own: in memory that both sides map, else behind their lines."""

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

from venvd.errors import BadReply, InvalidRequest, LimitExceeded, Unavailable, VenvdError, decoded
from venvd.net.blocking import connected
from venvd.net.endpoint import Endpoint, deadline_after, remaining, too_late
from venvd.transports.base import Call, Kind
from venvd_contract.arrays import Header
from venvd_contract.framing import Buffer, dump_line, parse_line
from venvd_contract.internal.segments import INLINE_BYTES, is_sealed

_CHUNK = 64 * 1024
_STEP = 16 << 20
"""Bytes that are copied at a stretch: other threads wait meanwhile."""
_MOST_LENT = 16
"""Arrays of one connection that may lie in shared memory; further ones are copied out of it."""
_MOST_IDLE = 8
_GATHER = 0.05
"""Seconds in which a further array may tell the session of memory that is not used any more."""
_RELEASE_WITHIN = 5.0
_MOST_DESCRIPTORS = 4
_NAMES = {"array.release": "segments"}
"""The field in which a command takes what is released, where it is not `release`."""


class Abort:
    """Lets another thread give up an exchange."""

    def __init__(self) -> None:
        self._carrier: Carrier | None = None
        self._given_up = False

    def watch(self, carrier: Carrier | None) -> None:
        self._carrier = carrier
        if self._given_up and carrier is not None:
            carrier.shut()

    def give_up(self) -> None:
        self._given_up = True
        if (carrier := self._carrier) is not None:
            carrier.shut()


class Carrier:
    """One connection: carries one array at a time."""

    def __init__(self, endpoint: Endpoint, token: str | None, deadline: float | None) -> None:
        self._endpoint = endpoint
        self._token = token
        self._socket = connected(endpoint, deadline)
        self._buffer = Buffer()
        self._descriptors: list[int] = []
        self._maps: dict[str, mmap.mmap] = {}
        self._lent: set[str] = set()
        self.released: deque[str] = deque()
        """Segments whose arrays have died, wherever the garbage collector ran."""

    @property
    def lent(self) -> int:
        """How many arrays lie in shared memory."""
        return len(self._lent) - len(self.released)

    def quiet(self) -> bool:
        """Whether it can be used: bytes or an end that nobody asked for say no."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """End it from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Arrays that lie in shared memory stay: the session does not use that memory again."""
        self._socket.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    # ---- one exchange

    def ask(
        self, call: Call[Any], payload: dict[str, Any], deadline: float | None, data: memoryview | None = None
    ) -> tuple[dict[str, Any], Any]:
        """Send a request, and the bytes behind it; the result, and the bytes behind that.

        Raises:
            VenvdError: what the backend answered, or the connection is of no use any more.
        """
        names = [self.released.popleft() for _ in range(len(self.released))]
        if names:
            payload = {**payload, _NAMES.get(call.command, "release"): names}
        message = self._message(call, payload)
        if data is not None:
            message["attachments"] = [data.nbytes]
        self._send(memoryview(dump_line(message)), deadline)
        if data is not None:
            self._send(data, deadline)
        self._lent.difference_update(names)
        reply = self._reply(deadline)
        if "error" in reply:
            raise decoded(reply)
        result = reply.get("result")
        if type(result) is not dict:
            raise self._broken("a reply about an array must have a result")
        for name in result.get("gone") or ():
            self._maps.pop(name, None)
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

    def _send(self, data: memoryview, deadline: float | None) -> None:
        try:
            while data:
                self._socket.settimeout(remaining(deadline, self._endpoint))
                data = data[self._socket.send(data[:_STEP]) :]
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            if not self._answered():  # a server that refuses what comes says why before it goes
                raise self._gone(error) from None

    def _answered(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _reply(self, deadline: float | None) -> dict[str, Any]:
        try:
            while (line := self._buffer.line()) is None:
                self._buffer.feed(self._receive(deadline))
            return parse_line(line)
        except VenvdError as error:
            if error.code in {"invalid_request", "too_large"}:
                raise self._broken(error.message) from None
            raise

    def _receive(self, deadline: float | None) -> bytes:
        try:
            self._socket.settimeout(remaining(deadline, self._endpoint))
            data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            raise self._gone(error) from None
        self._descriptors += descriptors
        if not data:
            raise self._gone(None)
        return data

    def behind(self, reply: dict[str, Any], deadline: float | None) -> bytearray:
        """The bytes behind a reply."""
        sizes = reply.get("attachments")
        if type(sizes) is not list or len(sizes) != 1 or type(sizes[0]) is not int or sizes[0] < 0:
            raise self._broken("an array must come as one attachment")
        found = bytearray(sizes[0])
        there = self._buffer.take(min(len(self._buffer), sizes[0])) or b""
        found[: len(there)] = there
        rest = memoryview(found)[len(there) :]
        try:
            while rest:
                self._socket.settimeout(remaining(deadline, self._endpoint))
                size = self._socket.recv_into(rest)
                if not size:
                    raise self._gone(None)
                rest = rest[size:]
        except TimeoutError:
            raise too_late(self._endpoint) from None
        except OSError as error:
            raise self._gone(error) from None
        return found

    # ---- shared memory

    def mapping(self, reply: dict[str, Any], result: dict[str, Any], least: int) -> mmap.mmap | None:
        """The segment that a reply names; None where its descriptor was lost on the way.

        Raises:
            BadReply: it cannot be used.
        """
        name, size = result.get("segment"), result.get("size")
        if type(name) is not str or type(size) is not int or size < least:
            raise self._broken("a segment has a name, and is as large as its array at least")
        if name not in self._maps:
            if not reply.get("descriptors") or not self._descriptors:
                return None
            descriptor = self._descriptors.pop(0)
            try:
                self._maps[name] = _mapped(descriptor, size)
            except (OSError, ValueError) as error:
                raise self._broken(f"a segment cannot be mapped: {error}") from None
            finally:
                os.close(descriptor)
        self._lent.add(name)
        return self._maps[name]

    def own(self, name: str, mapped: mmap.mmap, size: int, dead: queue.SimpleQueue[Any]) -> Any:
        """The first bytes of a segment, as an object; the segment is released when that has died."""
        part = (ctypes.c_char * size).from_buffer(mapped)
        finalizer = weakref.finalize(part, _release, self.released, name, dead)
        finalizer.atexit = False
        return part

    def drop(self, name: str) -> None:
        """Nothing lies in that segment any more."""
        self.released.append(name)

    def adopted(self, name: str) -> None:
        """The session has that segment again, whether it keeps it for an array or refused that."""
        self._lent.discard(name)

    def _gone(self, error: OSError | None) -> Unavailable:
        reason = f": {error}" if error else ""
        return Unavailable(f"{self._endpoint.url} closed the connection without a whole answer{reason}")

    def _broken(self, why: str) -> BadReply:
        return BadReply(f"the answer of {self._endpoint.url} cannot be read: {why}")


def _release(released: deque[str], name: str, dead: queue.SimpleQueue[Any]) -> None:
    released.append(name)
    dead.put(True)


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    """Memory that cannot be taken away: its file cannot shrink."""
    if not is_sealed(descriptor) or os.fstat(descriptor).st_size < size:
        raise ValueError("it is not sealed, or smaller than it should be")
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


class Carriers:
    """Connections for the arrays of one client; any thread may use it."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self._endpoint = endpoint
        self._token = token
        self._idle: deque[Carrier] = deque()
        self._dead: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closed = False
        self._shares = True
        """Whether descriptors come through: they do not where something stands between this program and the socket."""

    def get(self, call: Call[Header], abort: Abort | None = None) -> tuple[Header, Any]:
        """Fetch an array: see `Transport.get_array`."""
        deadline = deadline_after(call.patience)
        if self._shares:
            try:
                found: tuple[Header, Any] | None = self._using(call, deadline, abort, self._get_shared)
            except LimitExceeded:  # of the memory that can be shared: without it, it may well go
                found = None
            if found is not None:
                return found
        fetched: tuple[Header, Any] = self._using(call, deadline, abort, self._get_behind)
        return fetched

    def put(self, call: Call[Any], data: memoryview, abort: Abort | None = None) -> Any:
        """Send an array, see `Transport.put_array`; the reply's JSON."""
        deadline = deadline_after(call.patience)
        if self._shares and data.nbytes > INLINE_BYTES:
            found = self._using(call, deadline, abort, self._put_shared, data)
            if found is not None:
                return found
        return self._using(call, deadline, abort, self._put_behind, data)

    def close(self) -> None:
        self._closed = True
        self._dead.put(None)
        _close_all(self._idle)

    def __del__(self) -> None:
        self._dead.put(None)
        _close_all(self._idle)

    # ---- the ways of an array

    def _get_shared(self, carrier: Carrier, call: Call[Header], deadline: float | None) -> tuple[Header, Any] | None:
        reply, result = carrier.ask(call, {**call.payload, "shm": True}, deadline)
        header = call.finish(result)
        if result.get("segment") is None:
            return header, _checked(header, carrier.behind(reply, deadline))
        mapped = carrier.mapping(reply, result, header.nbytes)
        if mapped is None:
            self._shares = False
            carrier.drop(result["segment"])
            return None
        if carrier.lent > _MOST_LENT:
            copied = bytearray(memoryview(mapped)[: header.nbytes])
            carrier.drop(result["segment"])
            return header, copied
        self._attend()
        return header, carrier.own(result["segment"], mapped, header.nbytes, self._dead)

    def _get_behind(self, carrier: Carrier, call: Call[Header], deadline: float | None) -> tuple[Header, Any]:
        reply, result = carrier.ask(call, call.payload, deadline)
        header = call.finish(result)
        return header, _checked(header, carrier.behind(reply, deadline))

    def _put_shared(self, carrier: Carrier, call: Call[Any], deadline: float | None, data: memoryview) -> Any:
        reply, result = carrier.ask(call, {**call.payload, "shm": True}, deadline)
        mapped = carrier.mapping(reply, result, data.nbytes)
        name = result["segment"]
        if mapped is None:
            self._shares = False
            carrier.drop(name)
            return None
        target = memoryview(mapped)
        for start in range(0, data.nbytes, _STEP):
            end = min(start + _STEP, data.nbytes)
            target[start:end] = data[start:end]
        try:
            return carrier.ask(call, {**call.payload, "segment": name}, deadline)[1]
        finally:
            carrier.adopted(name)

    def _put_behind(self, carrier: Carrier, call: Call[Any], deadline: float | None, data: memoryview) -> Any:
        return carrier.ask(call, call.payload, deadline, data)[1]

    # ---- connections

    def _using(self, call: Call[Any], deadline: float | None, abort: Abort | None, work: Any, *more: Any) -> Any:
        carrier = self._take(deadline)
        if abort is not None:
            abort.watch(carrier)
        try:
            found = work(carrier, call, deadline, *more)
        except VenvdError as error:
            if abort is not None:
                abort.watch(None)
            if isinstance(error, BadReply | Unavailable) or error.code == "timeout":
                carrier.close()
            else:
                self._put(carrier)
            raise
        except BaseException:
            carrier.close()
            raise
        if abort is not None:
            abort.watch(None)
        self._put(carrier)
        return found

    def _take(self, deadline: float | None) -> Carrier:
        if self._closed:
            raise Unavailable(f"the client of {self._endpoint.url} was closed")
        if self._pid != os.getpid():
            _close_all(self._idle)
            self._pid = os.getpid()
            self._thread = None
        while True:
            try:
                carrier = self._idle.pop()
            except IndexError:
                return Carrier(self._endpoint, self._token, deadline)
            if carrier.quiet():
                return carrier
            carrier.close()

    def _put(self, carrier: Carrier) -> None:
        if self._closed or len(self._idle) >= _MOST_IDLE or not carrier.quiet():
            carrier.close()
        else:
            self._idle.append(carrier)

    def _attend(self) -> None:
        """Have the session told of memory that is not used any more, also where no further array is asked for."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_tell, args=(self._dead, self._idle), name="venvd-segments", daemon=True
            )
            self._thread.start()


def _tell(dead: queue.SimpleQueue[Any], idle: deque[Carrier]) -> None:
    """Release what has died, through the connections that are idle; the others do it with their next array."""
    while dead.get() is not None:
        time.sleep(_GATHER)
        with contextlib.suppress(IndexError):
            for _ in range(len(idle)):
                carrier = idle.popleft()
                if carrier.released:
                    try:
                        carrier.ask(_RELEASE, {}, deadline_after(_RELEASE_WITHIN))
                    except VenvdError:
                        carrier.close()
                        continue
                idle.append(carrier)


_RELEASE: Call[Any] = Call(Kind("array.release", lambda _: None), {})


def _checked(header: Header, found: bytearray) -> bytearray:
    try:
        header.check_length(len(found))
    except InvalidRequest as error:
        raise BadReply(f"the backend lied about an array: {error.message}") from None
    return found


def _close_all(carriers: deque[Carrier]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            carriers.pop().close()
