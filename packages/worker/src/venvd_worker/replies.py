"""Replies as bytes, within the limits on their size."""

from __future__ import annotations

import json
from json import encoder
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Union

from venvd_contract.errors import LimitExceeded, VenvdError
from venvd_contract.framing import MAX_LINE, dump_line

_ROOM = 1024
"""Bytes of a line that are not the result."""


class Package(NamedTuple):
    """A line with the bytes behind it and the descriptors that go along."""

    line: bytes
    attachments: Sequence[Any] = ()
    descriptors: Sequence[int] = ()


Reply = Union[bytes, Package]


def _encoding() -> Callable[[Any], str]:
    """What `JSONEncoder.encode` does, without making its C part anew for every call."""
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    chunks = make(None, plain.default, encoder.encode_basestring, None, ":", ",", False, False, False)
    join = "".join
    return lambda value: join(chunks(value, 0))


_encode = _encoding()


def result_line(identifier: Any, result: Any, limit: Optional[int]) -> bytes:
    """The reply of a call that went well.

    Raises:
        LimitExceeded: the result is larger than `limit` bytes, or than a line may be.
    """
    data = _encode(result).encode("utf-8")
    if limit is not None and len(data) > limit:
        raise LimitExceeded("the result takes {} bytes as JSON: resultBytes is {}".format(len(data), limit))
    if len(data) > MAX_LINE - _ROOM:
        raise LimitExceeded("the result takes {} bytes as JSON, and a line holds {}".format(len(data), MAX_LINE))
    if type(identifier) is int:
        return b'{"id":%d,"result":%b}\n' % (identifier, data)
    return b'{"id":%b,"result":%b}\n' % (_encode(identifier).encode("utf-8"), data)


def package(identifier: Any, result: Any, attachments: Sequence[Any], descriptors: Sequence[int]) -> Package:
    """The reply of a call whose result has more to it than JSON."""
    fields = {"id": identifier, "result": result}
    if attachments:
        fields["attachments"] = [len(part) for part in attachments]
    if descriptors:
        fields["descriptors"] = len(descriptors)
    return Package(dump_line(fields), attachments, descriptors)


def error_line(identifier: Any, error: VenvdError) -> bytes:
    """The reply of a call that did not."""
    return dump_line({"id": identifier, **error.fields()})


def event_line(identifier: Any, event: str, data: Any) -> bytes:
    return dump_line({"id": identifier, "event": event, "data": data})


def known_identifier(message: Dict[str, Any]) -> Any:
    """The `id` of a request, if it is one that can be told again."""
    found = message.get("id")
    return found if type(found) in (int, str, float) else None
