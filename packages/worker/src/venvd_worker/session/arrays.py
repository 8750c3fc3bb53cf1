"""Arrays in and out of a session: as attachments, or through segments of shared memory."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from venvd_contract.arrays import Header, check_format, header, read_header, table
from venvd_contract.errors import InvalidRequest, LimitExceeded, Unimplemented
from venvd_contract.internal.segments import INLINE_BYTES
from venvd_worker.session import tables, tracebacks
from venvd_worker.session.interrupts import Interrupts
from venvd_worker.session.segments import Segment, Segments

_FORMATS = {
    "?": "|b1", "b": "|i1", "B": "|u1", "c": "|S1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8",
    "l": "i8", "L": "u8", "n": "i8", "N": "u8", "e": "f2", "f": "f4", "d": "f8",
}  # fmt: skip
"""numpy's names for the codes of `struct` in native size."""
_NATIVE = "<" if sys.byteorder == "little" else ">"


class ArrayReply(NamedTuple):
    """A result, and the attachments that travel beside it."""

    result: Dict[str, Any]
    attachments: Sequence[Any] = ()
    text: Optional[Sequence[bytes]] = None
    """Parts of the JSON that replaces `result`."""


class Source(NamedTuple):
    """An array to send. `data` are its bytes if they lie in order; else the session must copy `array`."""

    header: Header
    data: Optional[memoryview]
    array: Any


class Arrays:
    """Sends and takes arrays within the session's limits. Only the server `shares` segments with the session.

    Attributes:
        most: the largest number of bytes of one array; None for no limit.
    """

    def __init__(self, segments: Segments, interrupts: Interrupts) -> None:
        self._segments = segments
        self._interrupts = interrupts
        self.most: Optional[int] = None
        self._expected: Dict[str, Header] = {}
        """The array for which the server asked for each lent segment."""

    # ---- out

    def get(self, value: Any, form: Optional[str], shm: bool, shares: bool) -> ArrayReply:
        """Send a value as an array, or as a table if `form` is `arrow`."""
        check_format(form)
        source = source_of(value) if form is None else _table_source(value)
        self._check_size(source.header)
        if not shm or source.header.nbytes <= INLINE_BYTES:
            return ArrayReply(source.header.fields(), [_bytes_of(source)])
        segment = self._lend(source.header.nbytes, shares)
        try:
            _copy(source, segment)
        except BaseException:
            self._segments.take_back([segment.name])
            raise
        return self._reply(source.header, segment)

    def send_text(self, parts: List[bytes], shares: bool) -> ArrayReply:
        """Send JSON outside of a line. Long JSON for the server goes into a segment."""
        size = sum(map(len, parts))
        if not shares or size <= INLINE_BYTES:
            return ArrayReply({}, text=parts)
        segment = self._lend(size, shares)
        memory = memoryview(segment.map).cast("B")
        end = 0
        parts.reverse()
        while parts:  # this frees each part as soon as it is copied
            part = parts.pop()
            memory[end : end + len(part)] = part
            end += len(part)
        return self._reply(header("|u1", [size]), segment)

    # ---- in

    def take(self, fields: Dict[str, Any], attachments: Sequence[bytes], shares: bool) -> Any:
        """Return the result of `array.put`: the array, or an `ArrayReply` with the requested segment."""
        head = read_header(fields)
        self._check_size(head)
        if fields["segment"] is not None:
            return self._adopt(head, fields["segment"], shares)
        if fields["shm"] and not attachments:
            return self._lend_for(head, shares)
        return self._from_attachment(head, attachments)

    def _from_attachment(self, head: Header, attachments: Sequence[bytes]) -> Any:
        """Make an array of an attachment."""
        if len(attachments) != 1:
            raise InvalidRequest(
                "array.put takes one attachment, the bytes of the array, not {}".format(len(attachments))
            )
        head.check_length(len(attachments[0]))
        return _make_array(head, bytearray(attachments[0]))

    def _lend_for(self, head: Header, shares: bool) -> ArrayReply:
        """Lend the server a segment to write the bytes of an array into."""
        _check_modules(head)
        segment = self._lend(max(1, head.nbytes), shares)
        self._expected = {name: meant for name, meant in self._expected.items() if self._segments.is_lent(name)}
        self._expected[segment.name] = head
        return self._reply(head, segment)

    def _adopt(self, head: Header, name: str, shares: bool) -> Any:
        """Make an array of the segment that the server or its client has written."""
        segment = self._segments.find_lent(name) if shares else None
        if segment is None:
            raise InvalidRequest(
                'the segment "{}" is not lent to this connection: ask for one with "shm"'.format(name[:80])
            )
        if self._expected.pop(name, None) != head:
            self.release([name], shares=True)
            raise InvalidRequest("array.put: the segment was given for an array of another dtype, shape or order")
        _check_modules(head)
        if not self._segments.crowded:
            return _make_array(
                head, self._interrupts.shield(lambda: self._segments.keep_for_array(segment, head.nbytes))
            )
        try:
            return _make_array(head, bytearray(memoryview(segment.map).cast("B")[: head.nbytes]))
        finally:
            self.release([name], shares=True)

    def handle_server_line(self, what: Any) -> None:
        """Handle a line of the server: segments to reuse (`free`), and segments never to use again (`drop`)."""
        if type(what) is dict:
            self._segments.take_back(_names(what.get("free")))
            self._segments.retire(_names(what.get("drop")))

    def release(self, names: Sequence[str], shares: bool) -> None:
        """Take back segments that the server no longer uses."""
        if shares and names:
            self._interrupts.shield(lambda: self._segments.take_back(names))

    # ---- inside

    @staticmethod
    def _reply(head: Header, segment: Segment) -> ArrayReply:
        return ArrayReply({**head.fields(), "segment": segment.name, "size": segment.size})

    def _lend(self, size: int, shares: bool) -> Segment:
        if not shares:
            raise InvalidRequest(
                "an attached connection shares no memory with its session: ask over another connection, "
                'or without "shm"'
            )
        return self._interrupts.shield(lambda: self._segments.lend(size))

    def _check_size(self, head: Header) -> None:
        if self.most is not None and head.nbytes > self.most:
            raise LimitExceeded("the array takes {} bytes: arrayBytes is {}".format(head.nbytes, self.most))


def _names(columns: Any) -> List[str]:
    return [name for name in columns if type(name) is str] if type(columns) is list else []


def source_of(value: Any) -> Source:
    """Return header and bytes of a value that numpy can make an array of; without numpy, of an object with a buffer.

    Raises:
        InvalidRequest: the elements have no fixed size, or cannot be sent.
        Unimplemented: this value needs numpy.
    """
    numpy = _import_numpy()
    if numpy is None:
        return _plain_source(value)
    if isinstance(value, numpy.ma.MaskedArray):
        raise InvalidRequest("a masked array cannot travel: use its filled() or data, and its mask")
    array = numpy.asarray(value)
    if array.dtype.hasobject:
        raise InvalidRequest(
            "numpy makes an array of objects of {}, and those cannot travel: convert to a type of fixed size".format(
                _describe(value)
            )
        )
    columns = array.flags.f_contiguous and not array.flags.c_contiguous
    head = header(array.dtype.str, array.shape, "F" if columns else "C")
    straight = array.T if columns else array
    data = memoryview(straight.reshape(-1).view("u1")) if straight.flags.c_contiguous else None
    return Source(head, data, array)


def _plain_source(value: Any) -> Source:
    try:
        view = memoryview(value)
    except TypeError:
        raise _no_numpy("array.get of {}".format(_describe(value))) from None
    name = _FORMATS.get(view.format.lstrip("@"))
    if name is None or not view.contiguous:
        raise _no_numpy("array.get of this kind of memory")
    head = header(name if name[0] == "|" else _NATIVE + name, list(view.shape or ()), "C" if view.c_contiguous else "F")
    return Source(head, _flat(view), value)


def _flat(view: memoryview) -> memoryview:
    return view.cast("B") if view.nbytes and view.c_contiguous else memoryview(view.tobytes("A"))


def _table_source(value: Any) -> Source:
    stream = tables.stream_of(value)
    return Source(table(stream.size), None, stream)


def _check_modules(head: Header) -> None:
    if head.format is None:
        _require_numpy("array.put")
    else:
        tables.check(head.into)


def _bytes_of(source: Source) -> Any:
    if source.header.format is not None:
        memory = bytearray(source.header.nbytes)
        source.array.write(memory)
        return memory
    return source.array.tobytes() if source.data is None else source.data


def _copy(source: Source, segment: Segment) -> None:
    """Copy the bytes once, in any order of elements. numpy lets other threads run meanwhile."""
    if source.header.format is not None:
        source.array.write(memoryview(segment.map).cast("B")[: source.header.nbytes])
        return
    numpy = _import_numpy()
    if numpy is None:
        memoryview(segment.map).cast("B")[: source.header.nbytes] = source.data or b""
        return
    if source.data is None:
        flat = numpy.frombuffer(segment.map, dtype=source.array.dtype, count=source.array.size)
        numpy.copyto(flat.reshape(source.array.shape), source.array)
        return
    numpy.copyto(
        numpy.frombuffer(segment.map, dtype="u1", count=source.header.nbytes),
        numpy.frombuffer(source.data, dtype="u1"),
    )


def _make_array(head: Header, memory: Any) -> Any:
    if head.format is not None:
        return tables.make_table(memory, head.into)
    numpy = _require_numpy("array.put")
    try:
        flat = numpy.frombuffer(memory, dtype=head.dtype) if head.nbytes else numpy.empty(0, dtype=head.dtype)
        return flat.reshape(head.shape, order=head.order)
    except (TypeError, ValueError) as error:  # more dimensions than this numpy knows, a type of another machine
        raise InvalidRequest("numpy of this venv cannot make that array: {}".format(error)) from None


def _import_numpy() -> Any:
    """Return the numpy of the venv in any version, or None if the venv lacks it."""
    try:
        return sys.modules.get("numpy") or import_module("numpy")
    except ImportError:
        return None


def _require_numpy(what: str) -> Any:
    numpy = _import_numpy()
    if numpy is None:
        raise _no_numpy(what)
    return numpy


def _no_numpy(what: str) -> Unimplemented:
    return Unimplemented("{} needs numpy, which this venv does not have: add it to the requirements".format(what))


def _describe(value: Any) -> str:
    return 'an object of the type "{}"'.format(tracebacks.class_name(type(value)))
