"""Turns the bytes of clients into requests, without parsing values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from venvd_contract.errors import InvalidRequest, TooLarge, VenvdError
from venvd_contract.framing import REQUEST_FIELDS, Buffer, attachment_sizes
from venvd_contract.suggestions import suggest
from venvd_core.backend import Request

MAX_ID = 256
"""The most bytes of a request's ID as JSON: every event repeats it."""

STREAMED = "array.put"
"""The command whose attachment the server passes on as it arrives; it may be larger than the limit."""

SMALL = 16 * 1024
"""A request of at most these bytes that arrives alone does not go through the buffer."""

_TOKEN = re.compile(rb'"token"\s*:\s*("(?:[^"\\]|\\.){1,1000}")')
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MOST_TOKENS = 4
"""How many fields "token" in the first bytes of a line are tried: the payload may have such fields too."""

_ABSENT = msgspec.Raw()
_EMPTY = msgspec.Raw(b"{}")
_NULL = b"null"


class Message(Request, gc=False, forbid_unknown_fields=True):
    """One request line, and the attachments behind it.

    Attributes:
        tag: the ID as JSON; empty if it is absent or null.
        payload: a JSON value; `{}` if it is absent or null.
        attachments: their lengths until they are read, then their bytes.
    """

    tag: msgspec.Raw = msgspec.field(default=_ABSENT, name="id")
    payload: msgspec.Raw = _EMPTY
    name: str | None = msgspec.field(default=None, name="call")
    attachments: list[int] | None = None  # type: ignore[assignment]
    stream: bool | None = None


@dataclass(frozen=True)
class Gate:
    """Limits requests to `limit` bytes until a token is accepted.

    Attributes:
        limit: the most bytes of a request.
        check: raises `VenvdError` if a token is not accepted.
    """

    limit: int
    check: Callable[[str | None], object]


class _Identity(msgspec.Struct):
    id: msgspec.Raw = _ABSENT


class MalformedError(Exception):
    """A line that is not a request.

    Attributes:
        error: the answer.
        id: the request's ID as JSON; empty if it cannot be read.
        fatal: whether the server cannot tell where the next line begins.
    """

    def __init__(self, error: VenvdError, identity: bytes = b"", *, fatal: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = identity
        self.fatal = fatal


decode = msgspec.json.Decoder().decode
_message = msgspec.json.Decoder(Message)
_identity = msgspec.json.Decoder(_Identity)


class Reader:
    """Reads requests from a stream of bytes, in the framing of the contract.

    Attributes:
        size: bytes of the last request.
        behind: bytes of an array after it, which `raw` reads.
        gate: checks a long request before more of it is read; None admits every request.
    """

    def __init__(self, max_line: int, max_attachment_bytes: int, mark: bytes = b"") -> None:
        self._buffer = Buffer(max_line, mark)
        self._small = min(max_line, SMALL)
        self._max_attachment_bytes = max_attachment_bytes
        self._unfinished: tuple[Message, list[int]] | None = None
        self.size = 0
        self.behind: int | None = None
        self._maybe_midway = bool(mark)  # the buffer takes the mark off the first line
        self.gate: Gate | None = None

    @property
    def midway(self) -> bool:
        """Whether there is an incomplete request."""
        return bool(self._unfinished or len(self._buffer))

    @property
    def held(self) -> int:
        """The received bytes of an incomplete request."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer.feed(data)
        self._maybe_midway = True

    def alone(self, data: bytes) -> Message | None:
        """Parse `data` if it is one small request and the buffer is empty; else return None: `feed` takes it."""
        size = len(data)
        if size > self._small or data.find(b"\n") != size - 1 or (self._maybe_midway and self._check_midway()):
            return None
        try:
            message = parse(data)
        except MalformedError:
            return None
        if message.attachments:
            return None
        self.size = size
        return message

    def _check_midway(self) -> bool:
        self._maybe_midway = self.midway or self._buffer.expects_mark
        return self._maybe_midway

    def next(self) -> Message | None:
        """Return the next complete request, or None if there is none. Blank lines are skipped.

        Raises:
            MalformedError: the next line is no request.
        """
        if self._unfinished is not None:
            return self._take_attachments(*self._unfinished)
        try:
            line = self._buffer.line()
            while line is not None and not line.strip():
                line = self._buffer.line()
        except TooLarge as error:
            raise MalformedError(error, fatal=True) from None
        if line is None:
            if self.gate is not None and len(self._buffer) > self.gate.limit:
                self._pass_early(self.gate, self._buffer.peek(self.gate.limit))
            return None
        message = parse(line)
        self.size, self.behind = len(line), None
        if not message.attachments:
            return message
        if message.command == STREAMED and len(message.attachments) == 1 and message.attachments[0] >= 0:
            self._pass(message, message.attachments[0])
            self.behind = message.attachments[0]
            return message
        sizes = self._check_sizes(message)
        self._pass(message, sum(sizes))
        self.size += sum(sizes)
        return self._take_attachments(message, sizes)

    def _pass_early(self, gate: Gate, begin: bytes) -> None:
        """Look for an accepted token in the first bytes of a long line; the whole line is checked again."""
        error: VenvdError = TooLarge(
            f"a connection without an accepted token may send lines of {gate.limit} bytes: put the token before a long "
            "payload, or send a short request first"
        )
        for match in islice(_TOKEN.finditer(begin), _MOST_TOKENS):
            try:
                gate.check(msgspec.json.decode(match[1], type=str))
            except VenvdError as raised:
                error = raised
            except msgspec.MsgspecError:
                continue
            else:
                self.gate = None
                return
        raise MalformedError(error, fatal=True)

    def _pass(self, message: Message, size: int) -> None:
        """Check the token before reading many bytes after the line."""
        if self.gate is None or size <= self.gate.limit:
            return
        try:
            self.gate.check(message.token)
        except VenvdError as error:
            raise MalformedError(error, bytes(message.tag), fatal=True) from None
        self.gate = None

    def _check_sizes(self, message: Message) -> list[int]:
        try:
            sizes = attachment_sizes(message.attachments)
            if sum(sizes) > self._max_attachment_bytes:
                limit = self._max_attachment_bytes
                raise TooLarge(f"the attachments are larger than the limit of {limit} bytes")
        except VenvdError as error:
            raise MalformedError(error, bytes(message.tag), fatal=True) from None
        return sizes

    def _take_attachments(self, message: Message, sizes: list[int]) -> Message | None:
        attachments = self._buffer.take_parts(sizes)
        if attachments is None:
            self._unfinished = message, sizes
            return None
        self._unfinished = None
        message.attachments = attachments  # type: ignore[assignment]
        return message

    def raw(self, most: int) -> bytes:
        """Return the received bytes after a message, at most `most`."""
        return self._buffer.take(min(most, len(self._buffer))) or b""

    def rest(self) -> bytes:
        """Return and drop the bytes of an incomplete request."""
        return self._buffer.rest()

    def end(self) -> None:
        """End the stream: its last line needs no line end, and an incomplete one fails in `next`.

        Raises:
            MalformedError: attachments are missing.
        """
        if self._unfinished is not None:
            (message, sizes), self._unfinished = self._unfinished, None
            there = len(self._buffer)
            self._buffer.rest()
            error = InvalidRequest(f"the attachments ended after {there} of the {sum(sizes)} bytes that were announced")
            raise MalformedError(error, bytes(message.tag), fatal=True)
        if self.midway:
            self._buffer.feed(b"\n")


def parse(line: bytes) -> Message:
    """Parse the request of one line.

    Raises:
        MalformedError: it is not UTF-8, not JSON, nested too deeply, or a field has the wrong type; says which.
    """
    try:
        if not line.isascii():
            line.decode()
        message = _message.decode(line)
    except UnicodeDecodeError as error:
        raise MalformedError(InvalidRequest(f"the line is not UTF-8: {error.reason} at byte {error.start}")) from None
    except RecursionError:
        raise MalformedError(TooLarge("the line is nested too deeply")) from None
    except msgspec.ValidationError as error:
        identity = find_identity(line)
        # without this field it is unknown where the next line begins
        fatal = "$.attachments" in str(error)
        raise MalformedError(InvalidRequest(_describe(error)), identity, fatal=fatal) from None
    except msgspec.DecodeError as error:
        raise MalformedError(InvalidRequest(f"the line is not JSON: {error}")) from None
    identity = b"" + message.tag  # the cheapest copy
    if not identity.isdigit() or len(identity) > MAX_ID:
        message.tag = msgspec.Raw(check_identity(identity))
    if len(message.payload) == len(_NULL) and bytes(message.payload) == _NULL:
        message.payload = _EMPTY
    return message


def _describe(error: msgspec.ValidationError) -> str:
    """Describe the wrong field of a line; for an unknown one, suggest a similar name."""
    unknown = _UNKNOWN.fullmatch(str(error))
    if unknown is None:
        return f"the request has a wrong field: {error}"
    return f'the field "{unknown[1][:80]}" is unknown; {suggest(unknown[1], REQUEST_FIELDS)}'


def find_identity(line: bytes) -> bytes:
    """Return the ID of a line with a wrong field, as JSON; empty if it has none."""
    try:
        return check_identity(bytes(_identity.decode(line).id))
    except (msgspec.MsgspecError, MalformedError, RecursionError):
        return b""


def check_identity(identity: bytes) -> bytes:
    """Check an ID, and return it as JSON; empty if it is absent or null.

    Raises:
        MalformedError: it is neither a text nor a number, or too long.
    """
    if identity in {b"", _NULL}:
        return b""
    if identity[0] not in b'"-0123456789':
        raise MalformedError(InvalidRequest('"id" must be a text or a number'))
    if len(identity) > MAX_ID:
        raise MalformedError(InvalidRequest(f'"id" is longer than {MAX_ID} bytes'))
    return identity
