"""Transports that send calls over sockets. The transport for HTTP also sends arrays."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from venvd._net.aio import Pool
from venvd._net.deadlines import answer_deadline
from venvd._transports import http_arrays
from venvd._transports.base import Call, Codec, Event
from venvd._transports.http import HttpCodec
from venvd_contract.arrays import Header

T = TypeVar("T")


class AsyncSocketTransport:
    """Sends calls over a pool of connections. A codec encodes the calls and decodes the replies."""

    def __init__(self, codec: Codec) -> None:
        self.url = codec.endpoint.url
        self._codec = codec
        self._pool = Pool(codec.endpoint)

    async def call(self, call: Call[T]) -> T:
        exchange, reader = self._codec.exchange(call, stream=False)
        await self._pool.run(exchange, answer_deadline(call.timeout))
        call.received = reader.count_bytes()
        return call.finish(reader.result())

    async def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        exchange, reader = self._codec.exchange(call, stream=True)
        async with aclosing(self._pool.stream(exchange, answer_deadline(call.timeout))) as arrivals:
            async for _ in arrivals:  # after each, the reader may have new events
                for event in reader.events():
                    yield event
        yield Event("result", call.finish(reader.result()))

    async def close(self) -> None:
        await self._pool.close()


class AsyncHttpTransport(AsyncSocketTransport):
    """Sends calls and arrays over HTTP. An array is the whole body of a request or response, without JSON around it."""

    def __init__(self, codec: HttpCodec) -> None:
        super().__init__(codec)
        self._http = codec

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        exchange, reader = http_arrays.encode_get(self._http, call)
        await self._pool.transfer(exchange, reader, answer_deadline(call.timeout))
        return http_arrays.decode_get(call, reader)

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        exchange, reader = http_arrays.encode_put(self._http, call, data)
        await self._pool.transfer(exchange, reader, answer_deadline(call.timeout))
        return http_arrays.decode_put(call, reader)
