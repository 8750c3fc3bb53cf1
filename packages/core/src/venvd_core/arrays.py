"""Arrays between a transport and a session.

A small array travels with the request or reply. A larger one lies in a segment: memory that the session shares. The
session copies an outgoing array into the segment once, and the server sends it from there. The server writes an
incoming array into the segment, and the session uses the bytes where they lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.errors import Internal, InvalidRequest, SessionLost, VenvdError
from venvd_contract.internal.segments import INLINE_BYTES
from venvd_core.callers import Caller
from venvd_core.calls import Call, Reply, Request
from venvd_core.segments import Segment, Segments
from venvd_core.wire import encode

T = TypeVar("T")

CHUNK = 1 << 20
"""Bytes of one part of an array."""
_COPIED = 2 * CHUNK
"""Bytes at the end of an array that the server copies, since a transport may keep them after `close`."""
_LARGEST_DESCRIPTOR = 64 * 1024
"""Bytes of the JSON that describes an array."""
_WITH_SEGMENTS = frozenset({"array.get", "array.put", "tofloatarray", "tofloatarray2d"})
"""Commands whose reply may name a segment."""


class _ArrayReply(msgspec.Struct):
    dtype: str
    shape: list[int]
    order: str
    format: str | None = None
    segment: str | None = None
    size: int = 0


class _SegmentName(msgspec.Struct):
    segment: str | None = None


_array_reply = msgspec.json.Decoder(_ArrayReply)
_segment_name = msgspec.json.Decoder(_SegmentName)


@dataclass(frozen=True)
class Target:
    """Where and how the calls for an array run, as the client's request says.

    Attributes:
        session, timeout, name, tag: as in `Request`.
        lease: seconds after which the session frees the handle of a new array, unless a client uses it.
        caller: who sends it.
        on_call: a function called with each call.
    """

    session: str | None = None
    timeout: float | None = None
    name: str | None = None
    lease: float | None = None
    tag: bytes = b""
    on_call: Callable[[Call], None] | None = None
    caller: Caller | None = None


class Outgoing:
    """An array on its way to a client; its user closes it.

    Iterating yields its bytes in parts of at most `CHUNK` bytes. A transport may keep a part until it has written it.
    When it takes the next part, it may have at most `CHUNK` unwritten bytes. The last parts are copies, so the user may
    close the array right after the last one.

    Attributes:
        header: dtype, shape, order and length in bytes.
        segment: begins with the bytes; None if they came with the reply.
    """

    def __init__(self, header: Header, data: bytes | None, segment: Segment | None, segments: Segments) -> None:
        self.header = header
        self.segment = segment
        self._segments = segments
        self._data = data
        self._lent = segment is not None

    def __iter__(self) -> Iterator[memoryview | bytes]:
        """Yield the bytes.

        Raises:
            Internal: the session has removed pages of the segment.
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
        """Release the segment; a second call does nothing.

        Args:
            reusable: whether the session may use the memory again: no client maps it.
        """
        if self._lent and self.segment is not None:
            self._lent = False
            self._segments.release(self.segment.name, reusable=reusable)


class Incoming:
    """An array on its way to a session.

    Its user writes all bytes, then commits the array, and closes it in any case.

    Attributes:
        header: dtype, shape, order and length in bytes.
        written: how many bytes have been written.
        segment: where the bytes go; None if they travel with the request.
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
        """Write the next bytes.

        Raises:
            InvalidRequest: these are more bytes than the header allows.
        """
        start, end = self.written, self.written + len(data)
        if end > self.header.nbytes:
            self.header.check_length(end)
        if self.segment is None:
            self._data += data
        else:
            for offset in range(0, len(data), CHUNK):
                size = min(CHUNK, len(data) - offset)
                self.segment.part(start + offset, start + offset + size)[:] = memoryview(data)[offset : offset + size]
        self.written = end

    async def commit(self) -> Reply:
        """Let the session make the array, and return its reply `{handleId, typeName}`.

        Raises:
            InvalidRequest: bytes are missing.
            SessionLost: the session's process has ended, and the written bytes are gone.
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
                raise SessionLost("the session's process ended during the upload; its state is lost") from error
            raise
        self._lent = False
        return reply

    def close(self, *, reusable: bool = True) -> None:
        """Drop the written bytes, unless the session made an array of them; a second call does nothing.

        Args:
            reusable: as in `Outgoing.close`.
        """
        if self._lent and self.segment is not None and self._segments is not None:
            self._lent = False
            self._segments.release(self.segment.name, reusable=reusable)


class ArrayService:
    """Fetches arrays from sessions and stores them there.

    Args:
        begin: `Backend.begin`.
    """

    def __init__(self, begin: Callable[[Call], None]) -> None:
        self._begin_call = begin

    def _begin(self, request: Request, target: Target, *, preliminary: bool = False) -> Call:
        request.session, request.timeout = target.session, target.timeout
        request.name, request.lease, request.tag = target.name, target.lease, target.tag
        request.caller = target.caller
        call = Call(request, preliminary=preliminary)
        self._begin_call(call)
        if target.on_call is not None:
            target.on_call(call)
        return call

    async def get(self, handle: str, target: Target, form: str | None) -> Outgoing:
        """Fetch the array of a handle; its user closes it."""
        payload = encode({"handleId": handle, "format": form, "shm": True})
        call = self._begin(Request("array.get", payload), target)
        return open_segment(call, await _wait(call))

    async def put(self, header: Header, target: Target, *, segment: bool) -> Incoming:
        """Prepare an array for its bytes; with `segment`, a small one lies in a segment as well."""

        def commit(payload: Any, data: bytes) -> Call:
            attachments = [] if "segment" in payload else [data]
            return self._begin(Request("array.put", encode(payload), attachments=attachments), target)

        if header.nbytes <= INLINE_BYTES and not segment:
            return Incoming(header, None, None, commit)
        payload = encode({**header.fields(), "shm": True})
        call = self._begin(Request("array.put", payload), target, preliminary=True)
        reply = await _wait(call)
        segments = _segments_of(call)
        try:
            return Incoming(header, _find_room(reply, segments, header), segments, commit)
        except BaseException:
            _release(segments, reply.result)
            raise


def _make_outgoing(reply: Reply, segments: Segments) -> Outgoing:
    array_reply = _read_reply(reply.result)
    header = _read_header(array_reply)
    if array_reply.segment is None:
        if len(reply.attachments) != 1:
            raise Internal("the session sent an array without its bytes")
        _check_length(header, len(reply.attachments[0]))
        return Outgoing(header, reply.attachments[0], None, segments)
    segment = segments.find(array_reply.segment)
    if header.nbytes > segment.size:
        raise Internal("the session sent an array that is larger than its segment")
    return Outgoing(header, None, segment, segments)


def _find_room(reply: Reply, segments: Segments, header: Header) -> Segment:
    """Return the segment that the session gave for an array."""
    array_reply = _read_reply(reply.result)
    if array_reply.segment is None:
        raise Internal("the session provided no memory for an array")
    segment = segments.find(array_reply.segment)
    if header.nbytes > segment.size:
        raise Internal("the session provided less memory than the array needs")
    return segment


async def _wait(call: Call) -> Reply:
    """Wait for the reply. If the waiting task is cancelled, release the segment that the reply names."""
    try:
        return await call
    except asyncio.CancelledError:
        if call.done() and not call.cancelled() and call.exception() is None:
            _release(_segments_of(call), call.result().result)
        raise


def release_unclaimed(call: Call, result: bytes) -> None:
    """Release the segment named in the reply to a call whose client has left."""
    if call.segments is not None and call.request.command in _WITH_SEGMENTS:
        _release(call.segments, bytes(result))


def open_segment(call: Call, reply: Reply) -> Outgoing:
    """Open the array that the reply to a call describes; the caller closes it."""
    segments = _segments_of(call)
    try:
        return _make_outgoing(reply, segments)
    except BaseException:
        _release(segments, reply.result)
        raise


async def claim(result: asyncio.Future[T], wait: Awaitable[T]) -> T:
    """Return the result of `wait`, which waits for `result`. If it fails first, an array that comes later is closed."""
    try:
        return await wait
    except BaseException:
        result.add_done_callback(_close)
        raise


def _close(result: asyncio.Future[Any]) -> None:
    if not result.cancelled() and result.exception() is None and isinstance(result.result(), Outgoing):
        result.result().close()


def _release(segments: Segments, result: bytes) -> None:
    """Release the segment that a reply names, if it names one."""
    try:
        name = _segment_name.decode(result).segment
    except msgspec.MsgspecError:
        return
    if name is not None:
        segments.release(name)


def _segments_of(call: Call) -> Segments:
    """Return the segments of the process that answered a call."""
    if call.segments is None:
        raise Internal("a call has a reply, but was never sent")
    return call.segments


def _read_reply(result: bytes) -> _ArrayReply:
    if len(result) > _LARGEST_DESCRIPTOR:
        raise Internal(f"the session sent an array descriptor of {len(result)} bytes")
    try:
        return _array_reply.decode(result)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Internal(f"the session sent an invalid array descriptor: {error}") from None


def _read_header(array_reply: _ArrayReply) -> Header:
    try:
        fields = {
            "dtype": array_reply.dtype,
            "shape": array_reply.shape,
            "order": array_reply.order,
            "format": array_reply.format,
        }
        return arrays.read_header(fields)
    except VenvdError as error:
        raise Internal(f"the session sent an invalid array descriptor: {error.message}") from None


def _check_length(header: Header, length: int) -> None:
    try:
        header.check_length(length)
    except InvalidRequest as error:
        raise Internal(f"the session sent an array that does not match its descriptor: {error.message}") from None
