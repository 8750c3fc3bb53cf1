"""JSON between server and session: requests are checked and wrapped, replies are split, values are never parsed."""

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
    """One line of a session's stream. It comes from where user code runs: nothing in it is trusted."""

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


class GarbledError(Exception):
    """A session sent something that is no line of the protocol; the message says what."""


def parse_line(line: bytes) -> SessionLine:
    """Split one line.

    Raises:
        GarbledError: not UTF-8, not JSON, or fields of the wrong type.
    """
    try:
        if not line.isascii():
            line.decode()
        return _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GarbledError(f"a line that is no reply ({error})") from None


def parse_data(data: msgspec.Raw) -> Any:
    """The data of an event.

    Raises:
        GarbledError: it cannot be read.
    """
    try:
        return _any.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise GarbledError(f"an event that cannot be read ({error})") from None


def parse_object(payload: bytes) -> Any:
    """The payload of a request that the server answers itself.

    Raises:
        InvalidRequest, TooLarge: as `checked`.
    """
    try:
        return _any.decode(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_json(error) from None


def checked(payload: bytes) -> bytes:
    """`payload` without line ends, if it is one JSON object in UTF-8. A `msgspec.Raw` is part of a line that was read.

    Raises:
        InvalidRequest: it is not; says why.
        TooLarge: nested too deeply to be read.
    """
    if type(payload) is msgspec.Raw:
        found = b"" + payload  # the cheapest copy
        return found if found[0] == 0x7B else _checked_object(found)
    try:
        if not payload.isascii():
            payload.decode()
        _raw.decode(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_json(error) from None
    # outside strings a line end is mere space, and inside them JSON has none
    return _checked_object(payload.replace(b"\n", b" ") if b"\n" in payload else payload)


def _checked_object(payload: bytes) -> bytes:
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
    """The error that a session answered with; what only the server can know it cannot claim."""
    code = line.code or Internal.code
    if code not in _CODES_OF_A_SESSION and code != Internal.code:
        return Internal(f'the session answered with the code "{code[:40]}", which is not its to use')
    fields = {"error": line.error, "code": code, "errorType": line.errorType, "traceback": line.traceback}
    return from_fields(fields)
