"""JSON between server and session. This module checks payloads and splits replies; it parses no values."""

from __future__ import annotations

import codecs
from typing import Any, TypeVar

import msgspec

from venvd_contract import exceptions
from venvd_contract.errors import (
    Cancelled,
    DeadlineExceeded,
    HandleNotFound,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unimplemented,
    UserError,
    VenvdError,
    from_fields,
)

T = TypeVar("T")

_SPACE = b" \t\r\n"
_raw = msgspec.json.Decoder(msgspec.Raw)
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode

_CODES_OF_A_SESSION = frozenset(
    kind.code
    for kind in (
        Cancelled,
        DeadlineExceeded,
        HandleNotFound,
        InvalidRequest,
        LimitExceeded,
        NotFound,
        TooLarge,
        Unimplemented,
        UserError,
    )
)


class SessionLine(msgspec.Struct, gc=False):
    """One line of a session's stream, which user code may have written.

    Fields that may be long are views of the line, checked to be JSON. An absent field is empty.
    """

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    attachments: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    code: msgspec.Raw = msgspec.Raw()
    errorType: msgspec.Raw = msgspec.Raw()  # noqa: N815 — names on the wire
    traceback: msgspec.Raw = msgspec.Raw()
    exception: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    event: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw(b"null")


class _EndedOutput(msgspec.Struct, gc=False):
    """The output of an `exec` up to its early end."""

    stdout: str
    stderr: str
    truncated: bool = False


_line = msgspec.json.Decoder(SessionLine)
_output: msgspec.json.Decoder[_EndedOutput | None] = msgspec.json.Decoder(_EndedOutput | None)
_text: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_sizes: msgspec.json.Decoder[list[int] | None] = msgspec.json.Decoder(list[int] | None)

EVENTS = {b'"%b"' % name.encode(): name for name in ("stdout", "stderr", "display", "progress")}
"""The events that clients get, by their JSON."""
TEXT_EVENTS = frozenset({"stdout", "stderr"})
"""Events whose data are text."""
LARGEST_SIZES = 2048
"""Bytes of a list of attachments as JSON, enough for the most that a line may have."""
LARGEST_ERROR = 512 * 1024
"""Bytes of one text of an error as JSON. A session cuts longer texts itself."""
_WHOLE = 1 << 20
"""Bytes that the check for UTF-8 decodes at a time."""


class GarbledError(Exception):
    """A session sent a line that breaks the protocol; the message describes the line."""


def parse_line(line: bytes) -> SessionLine:
    """Parse one line, except its result and data.

    Raises:
        GarbledError: not UTF-8, not JSON, or fields of the wrong type.
    """
    try:
        if not line.isascii():
            _check_utf8(line)
        return _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None


def _check_utf8(line: bytes) -> None:
    """Decode a line part by part: all of it at once could take four times its memory.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    view = memoryview(line)
    for start in range(0, len(line), _WHOLE):
        decode(view[start : start + _WHOLE], start + _WHOLE >= len(line))


def parse_sizes(sizes: msgspec.Raw) -> list[int] | None:
    """Parse the list of a line's attachments.

    Raises:
        GarbledError: it is not a list of whole numbers, or too long.
    """
    if memoryview(sizes).nbytes > LARGEST_SIZES:
        raise GarbledError("a list of attachments that is too long")
    try:
        return _sizes.decode(sizes)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None


def copy_data(event: str, data: msgspec.Raw) -> bytes:
    """Copy the JSON of an event, which the server passes on unchanged.

    Raises:
        GarbledError: the data of a text event are not text.
    """
    copy = b"" + data
    if event in TEXT_EVENTS and copy[:1] != b'"':
        raise GarbledError(f"an event {event} without text")
    return copy


def parse_object(payload: bytes) -> Any:
    """Parse the payload of a request that the server answers itself.

    Raises:
        InvalidRequest, TooLarge: as `check_payload`.
    """
    try:
        return _any.decode(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_json(error) from None


def check_payload(payload: bytes) -> bytes:
    """Check that a payload is one JSON object in UTF-8, and return it without line ends.

    A `msgspec.Raw` is part of a line that has been parsed.

    Raises:
        InvalidRequest: it is not; the message says why.
        TooLarge: it is nested too deeply.
    """
    if type(payload) is msgspec.Raw:
        copy = b"" + payload  # the cheapest way to copy
        return copy if copy[0] == 0x7B else _check_object(copy)
    try:
        if not payload.isascii():
            payload.decode()
        _raw.decode(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_json(error) from None
    # JSON has line ends only between tokens, where a space does as well
    return _check_object(payload.replace(b"\n", b" ") if b"\n" in payload else payload)


def _check_object(payload: bytes) -> bytes:
    if payload[0] != 0x7B and payload.lstrip(_SPACE)[:1] != b"{":
        raise InvalidRequest("the request must be a JSON object")
    return payload


def _too_deep() -> TooLarge:
    return TooLarge("the request is nested too deeply")


def _not_json(error: Exception) -> InvalidRequest:
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest(f"the request is not UTF-8: {error.reason} at byte {error.start}")
    return InvalidRequest(f"the request is not JSON: {str(error).removeprefix('JSON is malformed: ')}")


def error_of(line: SessionLine) -> VenvdError:
    """Make the error of a reply; codes that only the server may use become an `Internal` error.

    Raises:
        GarbledError: a field has the wrong type, or is too long.
    """
    code = _parse_text(line.code) or Internal.code
    if code not in _CODES_OF_A_SESSION and code != Internal.code:
        return Internal(f'the session answered with the code "{code[:40]}", which only the server may use')
    texts = {"error": line.error, "errorType": line.errorType, "traceback": line.traceback}
    fields: dict[str, Any] = {name: _parse_text(text) for name, text in texts.items()}
    fields["exception"] = _parse_fields(line.exception, _any, exceptions.LARGEST)
    output = _parse_fields(line.output, _output, LARGEST_ERROR)
    fields["output"] = None if output is None else msgspec.structs.asdict(output)
    return from_fields({**fields, "code": code})


def _parse_fields(fields: msgspec.Raw, decoder: msgspec.json.Decoder[T], largest: int) -> T | None:
    if memoryview(fields).nbytes > largest:
        raise GarbledError(f"an error with more than {largest} bytes in one field")
    try:
        return decoder.decode(fields) if fields else None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None


def _parse_text(text: msgspec.Raw) -> str | None:
    if not text:
        return None
    if memoryview(text).nbytes > LARGEST_ERROR:
        raise GarbledError(f"an error with more than {LARGEST_ERROR} bytes in one field")
    try:
        return _text.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None
