"""A wire on connections: the transports for every scheme that is bytes over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any, TypeVar

from venvd.net import aio, blocking
from venvd.net.endpoint import deadline_after
from venvd.transports.base import Call, Event, Wire

T = TypeVar("T")


class WiredTransport:
    def __init__(self, wire: Wire) -> None:
        self.url = wire.endpoint.url
        self._wire = wire
        self._pool = blocking.Pool(wire.endpoint)

    def call(self, call: Call[T]) -> T:
        exchange, reader = self._wire.exchange(call, stream=False)
        self._pool.run(exchange, deadline_after(call.patience))
        call.received = reader.received()
        return call.finish(reader.result())

    def stream(self, call: Call[Any]) -> Iterator[Event]:
        exchange, reader = self._wire.exchange(call, stream=True)
        with closing(self._pool.stream(exchange, deadline_after(call.patience))) as arrivals:  # type: ignore[type-var]
            for _ in arrivals:
                yield from reader.events()
        yield Event("result", call.finish(reader.result()))

    def close(self) -> None:
        self._pool.close()


class AsyncWiredTransport:
    def __init__(self, wire: Wire) -> None:
        self.url = wire.endpoint.url
        self._wire = wire
        self._pool = aio.Pool(wire.endpoint)

    async def call(self, call: Call[T]) -> T:
        exchange, reader = self._wire.exchange(call, stream=False)
        await self._pool.run(exchange, deadline_after(call.patience))
        call.received = reader.received()
        return call.finish(reader.result())

    async def stream(self, call: Call[Any]) -> AsyncIterator[Event]:
        exchange, reader = self._wire.exchange(call, stream=True)
        async with aclosing(self._pool.stream(exchange, deadline_after(call.patience))) as arrivals:  # type: ignore[type-var]
            async for _ in arrivals:
                for event in reader.events():
                    yield event
        yield Event("result", call.finish(reader.result()))

    async def close(self) -> None:
        await self._pool.close()
