"""Replies as bytes, within the limits on their size."""

from __future__ import annotations

import json
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

from venvd_contract.errors import InvalidRequest, LimitExceeded, VenvdError
from venvd_contract.framing import MAX_LINE, dump, dump_line
from venvd_contract.internal.slots import ID_BYTES

_ROOM = 1024
"""Bytes of a line to reserve for what is not the result."""
_LARGEST_ID = (1 << 64) - 1
_INFINITY = float("inf")
_ascii = json.JSONEncoder().encode

NO_ID = b'{"id":null,'
"""The beginning of a reply without an ID."""


class Package(NamedTuple):
    """A line, and the bytes that follow it."""

    line: bytes
    attachments: Sequence[Any] = ()


Reply = Union[bytes, Package]


def head(identifier: Any) -> Tuple[bytes, Union[int, bytes]]:
    """Return the beginning of each line that answers a request, and the ID as a whole number or else as JSON.

    Raises:
        InvalidRequest: the ID is neither a text nor a number, or is too long to repeat.
    """
    if type(identifier) is int and 0 <= identifier <= _LARGEST_ID:
        return b'{"id":%d,' % identifier, identifier
    if identifier is None:
        return NO_ID, b"null"
    if type(identifier) not in (int, str, float) or identifier in (_INFINITY, -_INFINITY):
        raise InvalidRequest('"id" must be a text or a number')
    text = _ascii(identifier).encode()
    if len(text) > ID_BYTES:
        raise InvalidRequest('"id" is longer than {} bytes'.format(ID_BYTES))
    return b'{"id":%b,' % text, text


def bounds(limit: Optional[int]) -> Tuple[int, str]:
    """Return the most bytes of a result, and the end of the message that names the limit.

    `limit` is the session's own limit, or None.
    """
    if limit is None or limit > MAX_LINE - _ROOM:
        return MAX_LINE - _ROOM, ", and a line holds {}".format(MAX_LINE)
    return limit, ": resultBytes is {}".format(limit)


def result_line(most: int, bound: str, begin: bytes, result: Union[str, Dict[str, Any]]) -> bytes:
    """Return the reply of a call that went well. `begin` comes from `head`. A result that is a text is JSON already.

    Raises:
        LimitExceeded: the result has more than `most` bytes. The message ends with `bound`.
    """
    data = (result if type(result) is str else dump(result)).encode()
    if len(data) > most:
        raise LimitExceeded("the result takes {} bytes as JSON{}".format(len(data), bound))
    return b'%b"result":%b}\n' % (begin, data)


def package(begin: bytes, result: Any, attachments: Sequence[Any]) -> Package:
    """Return the reply of a call with attachments."""
    fields: Dict[str, Any] = {"result": result}
    if attachments:
        fields["attachments"] = [len(part) for part in attachments]
    return Package(begin + dump_line(fields)[1:], attachments)


def text_reply(begin: bytes, parts: Sequence[bytes]) -> Reply:
    """Return the reply of a call whose result is JSON in parts."""
    if len(parts) == 1:
        return b'%b"result":%b}\n' % (begin, parts[0])
    return Package(b'%b"result":' % begin, (*parts, b"}\n"))


def error_line(begin: bytes, error: VenvdError) -> bytes:
    """Return the reply of a call that failed."""
    return begin + dump_line(error.fields())[1:]


def event_line(begin: bytes, event: str, data: Any) -> bytes:
    return begin + dump_line({"event": event, "data": data})[1:]
