"""Encodes requests that carry arrays and tables over HTTP, and decodes their answers. It copies no data."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlencode

from venvd._arrays import allocate
from venvd._net.bulk import BulkReader
from venvd._net.endpoint import Exchange
from venvd._net.http1 import head
from venvd._transports.base import Call
from venvd._transports.http import HttpCodec, error_of, parse_json
from venvd.errors import BadReply, VenvdError
from venvd_contract import arrays, tables
from venvd_contract.arrays import Header

T = TypeVar("T")

_PATH = "/api/array"
_NPY = "application/x-npy"


def _request(codec: HttpCodec, call: Call[Any], method: str, query: dict[str, Any], *more: tuple[str, str]) -> bytes:
    fields = {name: value for name, value in query.items() if value is not None}
    return head(
        method, codec.endpoint, f"{_PATH}?{urlencode(fields)}" if fields else _PATH, [*codec.headers(call), *more]
    )


def encode_get(codec: HttpCodec, call: Call[Header]) -> tuple[Exchange, BulkReader]:
    reader = BulkReader(allocate)
    data = _request(codec, call, "GET", call.payload)
    return Exchange(data + b"\r\n", reader, call.repeatable), reader


def decode_get(call: Call[Header], reader: BulkReader) -> tuple[Header, memoryview]:
    """Return the array or table in a response, or raise the error in it."""
    if reader.status >= 300:
        raise error_of(reader)
    whole = reader.whole()
    call.received = len(whole)
    if reader.header("content-type").startswith(tables.MEDIA_TYPE):
        return arrays.table(len(whole)), whole
    try:
        parsed = arrays.parse_npy(whole)
        if parsed is not None:
            header, start = parsed
            header.check_length(len(whole) - start)
            return header, whole[start:]
    except VenvdError as error:
        raise BadReply(f"the backend sent an invalid array: {error.message}") from None
    raise BadReply("the answer ends within the .npy header")


def encode_put(codec: HttpCodec, call: Call[Any], data: memoryview) -> tuple[Exchange, BulkReader]:
    reader = BulkReader(allocate)
    fields = call.payload
    if fields.get("format") is None:
        kind, query = _NPY, {}
        start = arrays.dump_npy(arrays.header(fields["dtype"], fields["shape"], fields["order"]))
    else:
        kind, query, start = tables.MEDIA_TYPE, {"into": fields["into"]}, b""
    more = ("Content-Type", kind), ("Content-Length", str(len(start) + len(data)))
    return Exchange(_request(codec, call, "PUT", query, *more) + b"\r\n" + start, reader, body=data), reader


def decode_put(call: Call[T], reader: BulkReader) -> T:
    if reader.status >= 300:
        raise error_of(reader)
    return call.finish(parse_json(bytes(reader.whole())))
