"""Arrays and tables over HTTP: bodies of known length, read into their place and written from theirs."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlencode

from venvd.arrays import room
from venvd.errors import BadReply, VenvdError
from venvd.net.bulk import BulkReader
from venvd.net.endpoint import Exchange, deadline_after
from venvd.net.http1 import head
from venvd.transports.base import Call
from venvd.transports.http import HttpWire, error_of, json_of
from venvd.transports.wired import AsyncWiredTransport, WiredTransport
from venvd_contract import arrays, tables
from venvd_contract.arrays import Header

T = TypeVar("T")

_PATH = "/api/array"
_NPY = "application/x-npy"


def _request(wire: HttpWire, call: Call[Any], method: str, asked: dict[str, Any], *more: tuple[str, str]) -> bytes:
    named = {name: value for name, value in asked.items() if value is not None}
    return head(method, wire.endpoint, f"{_PATH}?{urlencode(named)}" if named else _PATH, [*wire.headers(call), *more])


def _getting(wire: HttpWire, call: Call[Header]) -> tuple[Exchange, BulkReader]:
    reader = BulkReader(room)
    data = _request(wire, call, "GET", call.payload)
    return Exchange(data + b"\r\n", reader, call.repeatable), reader


def _got(call: Call[Header], reader: BulkReader) -> tuple[Header, memoryview]:
    """What a response holds; raises the error that it carries."""
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
        raise BadReply(f"the answer is no array: {error.message}") from None
    raise BadReply("the answer ends within the .npy header")


def _putting(wire: HttpWire, call: Call[Any], data: memoryview) -> tuple[Exchange, BulkReader]:
    reader = BulkReader(room)
    fields = call.payload
    if fields.get("format") is None:
        kind, asked = _NPY, {}
        start = arrays.dump_npy(arrays.header(fields["dtype"], fields["shape"], fields["order"]))
    else:
        kind, asked, start = tables.MEDIA_TYPE, {"into": fields["into"]}, b""
    more = ("Content-Type", kind), ("Content-Length", str(len(start) + len(data)))
    return Exchange(_request(wire, call, "PUT", asked, *more) + b"\r\n" + start, reader, body=data), reader


def _put(call: Call[T], reader: BulkReader) -> T:
    if reader.status >= 300:
        raise error_of(reader)
    return call.finish(json_of(bytes(reader.whole())))


class HttpTransport(WiredTransport):
    """Calls over HTTP, and what is too large for them."""

    def __init__(self, wire: HttpWire) -> None:
        super().__init__(wire)
        self._http = wire

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        exchange, reader = _getting(self._http, call)
        self._pool.transfer(exchange, reader, deadline_after(call.patience))
        return _got(call, reader)

    def put_array(self, call: Call[T], data: memoryview) -> T:
        exchange, reader = _putting(self._http, call, data)
        self._pool.transfer(exchange, reader, deadline_after(call.patience))
        return _put(call, reader)


class AsyncHttpTransport(AsyncWiredTransport):
    """The same for asyncio."""

    def __init__(self, wire: HttpWire) -> None:
        super().__init__(wire)
        self._http = wire

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        exchange, reader = _getting(self._http, call)
        await self._pool.transfer(exchange, reader, deadline_after(call.patience))
        return _got(call, reader)

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        exchange, reader = _putting(self._http, call, data)
        await self._pool.transfer(exchange, reader, deadline_after(call.patience))
        return _put(call, reader)
