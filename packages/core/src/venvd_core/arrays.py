"""Arrays between a transport and a session: what the three servers send and receive.

Small ones travel with the request or reply. Larger ones lie in a segment of memory that the session shares: it copies
an array there once, and the server sends from it; or the server writes there what comes in, and the session makes an
array of it where it lies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.errors import Internal, InvalidRequest, SessionLost, VenvdError
from venvd_core.calls import Call, Reply, Request
from venvd_core.process import Process
from venvd_core.segments import Segment
from venvd_core.wire import encode

CHUNK = 1 << 20
"""Bytes of one part of an array."""
INLINE = 64 * 1024
"""Bytes up to which an array travels with the line."""
_COPIED = 2 * CHUNK
"""Bytes at the end that are given out as copies: those that a transport may hold on to when it has been given all."""


class _Described(msgspec.Struct):
    dtype: str
    shape: list[int]
    order: str
    format: str | None = None
    segment: str | None = None
    size: int = 0


class _Named(msgspec.Struct):
    segment: str | None = None


_described = msgspec.json.Decoder(_Described)
_named = msgspec.json.Decoder(_Named)


@dataclass(frozen=True)
class Target:
    """Which session, null is `default`; how many seconds a call of it may take, null is the backend's default; and what
    the client calls it.
    """

    session: str | None = None
    timeout: float | None = None
    name: str | None = None
    lease: float | None = None
    """Seconds for which the handle of an array that is sent lives unless it is used."""
    tag: bytes = b""
    """As in `Request`."""
    on_call: Callable[[Call], None] | None = None
    """Told of each call that is made of a session."""


class Calls(Protocol):
    """What stands behind: `Backend.begin`."""

    def __call__(self, call: Call, /) -> None: ...


class Outgoing:
    """An array on its way to a client. Whoever gets one closes it.

    Iterating gives its bytes in parts of `CHUNK` bytes at most. A part may be handed to a transport that keeps it until
    it is written, if that is waited for before the next part whenever more than `CHUNK` bytes are unwritten: the last
    ones are copies, and so `close` may follow at once.

    Attributes:
        header: dtype, shape, order and length in bytes.
        segment: where the bytes lie, first to last; None where they came with the reply.
    """

    def __init__(self, header: Header, data: bytes | None, segment: Segment | None, process: Process) -> None:
        self.header = header
        self.segment = segment
        self.process = process
        self._data = data
        self._lent = segment is not None

    def __iter__(self) -> Iterator[memoryview | bytes]:
        """Raises:
        Internal: the session took its memory back.
        """
        total = self.header.nbytes
        for start in range(0, total, CHUNK):
            end = min(start + CHUNK, total)
            if self._data is not None:
                yield memoryview(self._data)[start:end]
            elif self.segment is not None:
                part = self.segment.part(start, end)
                yield bytes(part) if start >= total - _COPIED else part

    def forsake(self) -> None:
        """Whoever maps the memory is gone, or may be: it is not used again."""
        if self._lent and self.segment is not None:
            self._lent = False
            self.process.segments.forsake([self.segment.name])

    def close(self) -> None:
        """Let the session use the memory again; closing twice is no error."""
        if self._lent and self.segment is not None:
            self._lent = False
            self.process.segments.release([self.segment.name])


class Incoming:
    """An array on its way to a session: `write` all its bytes, then `commit`. Whoever gets one closes it.

    Attributes:
        written: how many bytes there are already.
        segment: where to write them; None where they travel with the line.
    """

    def __init__(
        self, header: Header, segment: Segment | None, process: Process | None, commit: Callable[[Any, bytes], Call]
    ) -> None:
        self.header = header
        self.segment = segment
        self.written = 0
        self.process = process
        self._commit = commit
        self._data = bytearray()
        self._lent = segment is not None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes.

        Raises:
            InvalidRequest: there are more than the header says.
        """
        start, end = self.written, self.written + len(data)
        if end > self.header.nbytes:
            self.header.check_length(end)
        if self.segment is None:
            self._data += data
        else:
            for at in range(0, len(data), CHUNK):
                size = min(CHUNK, len(data) - at)
                self.segment.part(start + at, start + at + size)[:] = memoryview(data)[at : at + size]
        self.written = end

    async def commit(self) -> Reply:
        """Make the array; `{handleId, typeName}`.

        Raises:
            InvalidRequest: bytes are missing.
            SessionLost: the session's process, and what was written, is gone.
        """
        self.header.check_length(self.written)
        fields = self.header.fields()
        if self.segment is None:
            return await self._commit(fields, bytes(self._data))
        call = self._commit({**fields, "segment": self.segment.name}, b"")
        try:
            reply = await call
        except VenvdError as error:
            if call.process is not self.process:
                raise SessionLost("the session's process ended while the array came in; its state is lost") from error
            raise
        self._lent = False
        return reply

    def forsake(self) -> None:
        """Whoever maps the memory is gone, or may be: it is not used again."""
        if self._lent and self.segment is not None and self.process is not None:
            self._lent = False
            self.process.segments.forsake([self.segment.name])

    def close(self) -> None:
        """Drop what was written, unless it became an array; closing twice is no error."""
        if self._lent and self.segment is not None and self.process is not None:
            self._lent = False
            self.process.segments.release([self.segment.name])


class Porter:
    """Gets arrays from sessions and puts them there."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def _begin(self, request: Request, target: Target, *, preliminary: bool = False) -> Call:
        request.session, request.timeout = target.session, target.timeout
        request.name, request.lease, request.tag = target.name, target.lease, target.tag
        call = Call(request, preliminary=preliminary)
        self._calls(call)
        if target.on_call is not None:
            target.on_call(call)
        return call

    async def get(self, handle: str, target: Target, form: str | None) -> Outgoing:
        payload = encode({"handleId": handle, "format": form, "shm": True})
        call = self._begin(Request("array.get", payload), target)
        reply = await _answered(call)
        process = _process(call)
        try:
            return await self._outgoing(reply, process)
        except BaseException:
            _release(process, reply.result)
            raise

    async def _outgoing(self, reply: Reply, process: Process) -> Outgoing:
        said = _read(reply.result)
        header = _header(said)
        if said.segment is None:
            if len(reply.attachments) != 1:
                raise Internal("the session sent an array without its bytes")
            _check(header, len(reply.attachments[0]))
            return Outgoing(header, reply.attachments[0], None, process)
        segment = await process.segments.find(said.segment)
        if header.nbytes > segment.size:
            raise Internal("the session sent an array that is larger than its segment")
        return Outgoing(header, None, segment, process)

    async def put(self, header: Header, target: Target, *, segment: bool) -> Incoming:
        def commit(payload: Any, data: bytes) -> Call:
            attachments = [] if "segment" in payload else [data]
            return self._begin(Request("array.put", encode(payload), attachments=attachments), target)

        if header.nbytes <= INLINE and not segment:
            return Incoming(header, None, None, commit)
        payload = encode({**header.fields(), "shm": True})
        call = self._begin(Request("array.put", payload), target, preliminary=True)
        reply = await _answered(call)
        process = _process(call)
        try:
            return Incoming(header, await _room(reply, process, header), process, commit)
        except BaseException:
            _release(process, reply.result)
            raise


async def _room(reply: Reply, process: Process, header: Header) -> Segment:
    said = _read(reply.result)
    if said.segment is None:
        raise Internal("the session gave no memory for an array")
    found = await process.segments.find(said.segment)
    if header.nbytes > found.size:
        raise Internal("the session gave less memory than the array takes")
    return found


async def _answered(call: Call) -> Reply:
    """The reply; what it lends is given back where nobody waits any more."""
    try:
        return await call
    except asyncio.CancelledError:
        if call.done() and not call.cancelled() and call.exception() is None:
            _release(_process(call), call.result().result)
        raise


def abandoned(call: Call, result: msgspec.Raw) -> None:
    """A reply came that nobody waits for: what it lends is given back."""
    if call.process is not None and call.request.command in {"array.get", "array.put"}:
        _release(call.process, bytes(result))


def _release(process: Process, result: bytes) -> None:
    try:
        name = _named.decode(result).segment
    except msgspec.MsgspecError:
        return
    if name is not None:
        process.segments.release([name])


def _process(call: Call) -> Process:
    if call.process is None:
        raise Internal("a call was answered that was never sent")
    return call.process


def _read(result: bytes) -> _Described:
    try:
        return _described.decode(result)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Internal(f"the session described an array in a way that is none: {error}") from None


def _header(said: _Described) -> Header:
    try:
        fields = {"dtype": said.dtype, "shape": said.shape, "order": said.order, "format": said.format}
        return arrays.described(fields)
    except VenvdError as error:
        raise Internal(f"the session described an array that cannot be: {error.message}") from None


def _check(header: Header, found: int) -> None:
    try:
        header.check_length(found)
    except InvalidRequest as error:
        raise Internal(f"the session lied about an array: {error.message}") from None
