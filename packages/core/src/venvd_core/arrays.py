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
from venvd_contract.internal.segments import INLINE_BYTES
from venvd_core.calls import Call, Reply, Request
from venvd_core.segments import Segment, Segments
from venvd_core.wire import encode

CHUNK = 1 << 20
"""Bytes of one part of an array."""
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

    def __init__(self, header: Header, data: bytes | None, segment: Segment | None, segments: Segments) -> None:
        self.header = header
        self.segment = segment
        self._segments = segments
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

    def close(self, *, reusable: bool = True) -> None:
        """Give the memory up; closing twice is no error.

        Args:
            reusable: whether the session may use the memory again, since no client maps it.
        """
        if self._lent and self.segment is not None:
            self._lent = False
            self._segments.release(self.segment.name, reusable=reusable)


class Incoming:
    """An array on its way to a session: `write` all its bytes, then `commit`. Whoever gets one closes it.

    Attributes:
        written: how many bytes there are already.
        segment: where to write them; None where they travel with the line.
    """

    def __init__(
        self, header: Header, segment: Segment | None, segments: Segments | None, commit: Callable[[Any, bytes], Call]
    ) -> None:
        self.header = header
        self.segment = segment
        self.written = 0
        self._segments = segments
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
            if call.segments is not self._segments:
                raise SessionLost("the session's process ended while the array came in; its state is lost") from error
            raise
        self._lent = False
        return reply

    def close(self, *, reusable: bool = True) -> None:
        """Drop what was written, unless it became an array; closing twice is no error.

        Args:
            reusable: as in `Outgoing.close`.
        """
        if self._lent and self.segment is not None and self._segments is not None:
            self._lent = False
            self._segments.release(self.segment.name, reusable=reusable)


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
        segments = _segments_of(call)
        try:
            return await self._outgoing(reply, segments)
        except BaseException:
            _release(segments, reply.result)
            raise

    async def _outgoing(self, reply: Reply, segments: Segments) -> Outgoing:
        said = _read(reply.result)
        header = _header(said)
        if said.segment is None:
            if len(reply.attachments) != 1:
                raise Internal("the session sent an array without its bytes")
            _check(header, len(reply.attachments[0]))
            return Outgoing(header, reply.attachments[0], None, segments)
        segment = await segments.find(said.segment)
        if header.nbytes > segment.size:
            raise Internal("the session sent an array that is larger than its segment")
        return Outgoing(header, None, segment, segments)

    async def put(self, header: Header, target: Target, *, segment: bool) -> Incoming:
        def commit(payload: Any, data: bytes) -> Call:
            attachments = [] if "segment" in payload else [data]
            return self._begin(Request("array.put", encode(payload), attachments=attachments), target)

        if header.nbytes <= INLINE_BYTES and not segment:
            return Incoming(header, None, None, commit)
        payload = encode({**header.fields(), "shm": True})
        call = self._begin(Request("array.put", payload), target, preliminary=True)
        reply = await _answered(call)
        segments = _segments_of(call)
        try:
            return Incoming(header, await _room(reply, segments, header), segments, commit)
        except BaseException:
            _release(segments, reply.result)
            raise


async def _room(reply: Reply, segments: Segments, header: Header) -> Segment:
    said = _read(reply.result)
    if said.segment is None:
        raise Internal("the session gave no memory for an array")
    found = await segments.find(said.segment)
    if header.nbytes > found.size:
        raise Internal("the session gave less memory than the array takes")
    return found


async def _answered(call: Call) -> Reply:
    """The reply; what it lends is given back where nobody waits any more."""
    try:
        return await call
    except asyncio.CancelledError:
        if call.done() and not call.cancelled() and call.exception() is None:
            _release(_segments_of(call), call.result().result)
        raise


def release_unclaimed(call: Call, result: msgspec.Raw) -> None:
    """A reply came that nobody waits for: what it lends is given back."""
    if call.segments is not None and call.request.command in {"array.get", "array.put"}:
        _release(call.segments, bytes(result))


def _release(segments: Segments, result: bytes) -> None:
    try:
        name = _named.decode(result).segment
    except msgspec.MsgspecError:
        return
    if name is not None:
        segments.release(name)


def _segments_of(call: Call) -> Segments:
    if call.segments is None:
        raise Internal("a call was answered that was never sent")
    return call.segments


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
