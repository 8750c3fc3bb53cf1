"""JSON between server and session: payloads are checked, and replies are split; values are not parsed."""

from __future__ import annotations

from typing import Any

import msgspec

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

_SPACE = b" \t\r\n"
_raw = msgspec.json.Decoder(msgspec.Raw)
_any = msgspec.json.Decoder()
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
    """One line of a session's stream, which user code may have written."""

    id: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    attachments: list[int] | None = None
    error: str | None = None
    code: str | None = None
    errorType: str | None = None  # noqa: N815 — names on the wire
    traceback: str | None = None
    event: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


_line = msgspec.json.Decoder(SessionLine)

TEXT_EVENTS = frozenset({"stdout", "stderr"})
"""Events whose data are text."""


class GarbledError(Exception):
    """A session sent a line that breaks the protocol; the message says how."""


def parse_line(line: bytes) -> SessionLine:
    """Parse one line, but for its result and data.

    Raises:
        GarbledError: not UTF-8, not JSON, or fields of the wrong type.
    """
    try:
        if not line.isascii():
            line.decode()
        return _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None


def parse_data(event: str, data: msgspec.Raw) -> Any:
    """Parse the text of an event. Other data stay JSON, because numbers may be larger than a parser takes.

    Raises:
        GarbledError: the text is no JSON.
    """
    if event not in TEXT_EVENTS:
        return data
    try:
        return _any.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GarbledError(f"an event that cannot be read ({error})") from None


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
        InvalidRequest: it is no such object; says why.
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
    """Make the error of a reply; codes that only the server may use become an `Internal` error."""
    code = line.code or Internal.code
    if code not in _CODES_OF_A_SESSION and code != Internal.code:
        return Internal(f'the session answered with the code "{code[:40]}", which is not its to use')
    fields = {"error": line.error, "code": code, "errorType": line.errorType, "traceback": line.traceback}
    return from_fields(fields)
