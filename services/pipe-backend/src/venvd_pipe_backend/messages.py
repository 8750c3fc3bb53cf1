"""What clients send: bytes become requests. Values are never parsed."""

from __future__ import annotations

import msgspec

from venvd_contract.errors import InvalidRequest, TooLarge, VenvdError
from venvd_contract.framing import Buffer, attachment_sizes
from venvd_core.backend import Request

MAX_ID = 256
"""Bytes of a request's ID as JSON: it is repeated in every event."""

STREAMED = "array.put"
"""The command whose attachment may be larger than what a request may hold."""

SMALL = 16 * 1024
"""Bytes of a request that need not go through the buffer where they come alone."""

_ABSENT = msgspec.Raw()
_EMPTY = msgspec.Raw(b"{}")
_NULL = b"null"


class Message(Request, gc=False):
    """One request line, and the attachments that stood behind it.

    Attributes:
        tag: the ID as JSON; empty where it is absent or null.
        payload: a JSON value; `{}` where it is absent or null.
        attachments: at first their lengths.
    """

    tag: msgspec.Raw = msgspec.field(default=_ABSENT, name="id")
    payload: msgspec.Raw = _EMPTY
    name: str | None = msgspec.field(default=None, name="call")
    attachments: list[int] | None = None  # type: ignore[assignment]
    token: str | None = None
    stream: bool | None = None


class _Identity(msgspec.Struct):
    id: msgspec.Raw = _ABSENT


class MalformedError(Exception):
    """Bytes that are no request.

    Attributes:
        error: what to answer.
        id: the request's ID as JSON, as far as it can be told; empty where there is none.
        fatal: whether what follows cannot be understood any more.
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
    """Requests out of a stream of bytes, in the framing of the contract.

    Attributes:
        size: bytes of the request that it gave last.
        behind: how many follow it and are taken as they come: those of an array.
    """

    def __init__(self, max_line: int, max_attachment_bytes: int) -> None:
        self._buffer = Buffer(max_line)
        self._small = min(max_line, SMALL)
        self._max_attachment_bytes = max_attachment_bytes
        self._unfinished: tuple[Message, list[int]] | None = None
        self.size = 0
        self.behind: int | None = None
        self._fed = False
        """Whether something may be midway."""

    @property
    def midway(self) -> bool:
        """Whether a request has begun and is not whole."""
        return bool(self._unfinished or len(self._buffer))

    @property
    def held(self) -> int:
        """Bytes that are no whole request yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer.feed(data)
        self._fed = True

    def alone(self, data: bytes) -> Message | None:
        """The small request that `data` is, where nothing else is there; None where it has to be fed."""
        size = len(data)
        if size > self._small or data.find(b"\n") != size - 1 or (self._fed and self._is_midway()):
            return None
        try:
            message = parse(data)
        except MalformedError:
            return None
        if message.attachments:
            return None
        self.size = size
        return message

    def _is_midway(self) -> bool:
        self._fed = self.midway
        return self._fed

    def next(self) -> Message | None:
        """The next whole request, or None while it is not there yet. Blank lines are skipped.

        Raises:
            MalformedError: what is there is no request.
        """
        if self._unfinished is not None:
            return self._finished(*self._unfinished)
        try:
            line = self._buffer.line()
            while line is not None and not line.strip():
                line = self._buffer.line()
        except TooLarge as error:
            raise MalformedError(error, fatal=True) from None
        if line is None:
            return None
        message = parse(line)
        self.size, self.behind = len(line), None
        if not message.attachments:
            return message
        if message.command == STREAMED and len(message.attachments) == 1 and message.attachments[0] >= 0:
            self.behind = message.attachments[0]
            return message
        sizes = self._sizes(message)
        self.size += sum(sizes)
        return self._finished(message, sizes)

    def _sizes(self, message: Message) -> list[int]:
        try:
            sizes = attachment_sizes(message.attachments)
            if sum(sizes) > self._max_attachment_bytes:
                limit = self._max_attachment_bytes
                raise TooLarge(f"the attachments are larger than the limit of {limit} bytes")
        except VenvdError as error:
            raise MalformedError(error, bytes(message.tag), fatal=True) from None
        return sizes

    def _finished(self, message: Message, sizes: list[int]) -> Message | None:
        if len(self._buffer) < sum(sizes):
            self._unfinished = message, sizes
            return None
        self._unfinished = None
        message.attachments = [self._buffer.take(size) or b"" for size in sizes]  # type: ignore[misc]
        return message

    def raw(self, most: int) -> bytes:
        """What is there of the bytes behind a message, `most` at most."""
        return self._buffer.take(min(most, len(self._buffer))) or b""

    def rest(self) -> bytes:
        """Everything that is no whole request yet; nothing is left."""
        return self._buffer.rest()

    def end(self) -> None:
        """The stream ends here, and so does its last line; a part of a line is never a whole request.

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
    """The request of one line.

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
        identity = identity_of(line)
        # how many attachments follow cannot be told where that very field is wrong
        fatal = "$.attachments" in str(error)
        raise MalformedError(InvalidRequest(f"the request has a wrong field: {error}"), identity, fatal=fatal) from None
    except msgspec.DecodeError as error:
        raise MalformedError(InvalidRequest(f"the line is not JSON: {error}")) from None
    identity = b"" + message.tag  # the cheapest copy
    if not identity.isdigit() or len(identity) > MAX_ID:
        message.tag = msgspec.Raw(checked_identity(identity))
    if len(message.payload) == len(_NULL) and bytes(message.payload) == _NULL:
        message.payload = _EMPTY
    return message


def identity_of(line: bytes) -> bytes:
    try:
        return checked_identity(bytes(_identity.decode(line).id))
    except (msgspec.MsgspecError, MalformedError):
        return b""


def checked_identity(identity: bytes) -> bytes:
    """The ID as JSON; empty where it is absent or null.

    Raises:
        MalformedError: it is neither a text nor a number, or too long to be repeated.
    """
    if identity in {b"", _NULL}:
        return b""
    if identity[0] not in b'"-0123456789':
        raise MalformedError(InvalidRequest('"id" must be a text or a number'))
    if len(identity) > MAX_ID:
        raise MalformedError(InvalidRequest(f'"id" is longer than {MAX_ID} bytes'))
    return identity
