"""The connection to a controller: requests, and streams of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from venvd import _controller_api as api
from venvd._controller_api import Request
from venvd._controller_codec import ControllerCodec
from venvd._json_dataclasses import list_decoder
from venvd._net.aio import Pool
from venvd._net.deadlines import deadline_after
from venvd._net.sse import EventParser, ServerEvent
from venvd.errors import Unreachable

T = TypeVar("T")


class AsyncControllerConnection:
    """Sends requests to one controller. All methods raise `NoController` if none answers."""

    def __init__(self, codec: ControllerCodec) -> None:
        self._codec = codec
        self._pool = Pool(codec.endpoint)

    async def send(self, request: Request[T]) -> T:
        """Send one request and return its decoded answer."""
        exchange, reader = self._codec.encode(request)
        try:
            await self._pool.run(exchange, deadline_after(request.timeout))
        except Unreachable as error:
            raise self._codec.no_controller(error) from None
        return self._codec.decode(request, reader)

    async def list_all(self, path: str, kind: type[T]) -> list[T]:
        """Fetch every page of a list."""
        items: list[T] = []
        after: str | None = None
        while True:
            page = await self.send(api.get_page(path, after))
            items += list_decoder(kind)(page.items)
            if page.next is None or page.next == after:
                return items
            after = page.next

    async def stream_events(
        self, path: str, query: Mapping[str, Any] | None = None, last_id: str = ""
    ) -> AsyncGenerator[ServerEvent, None]:
        """Yield the events of a stream until the controller ends it. Closing the iterator closes the connection."""
        exchange, reader = self._codec.encode_stream(path, query or {}, last_id)
        parser = EventParser()
        try:
            async with aclosing(self._pool.stream(exchange)) as arrivals:
                async for _ in arrivals:
                    if reader.status >= 400:
                        if reader.done:
                            raise self._codec.decode_error(reader)
                    elif reader.has_head:
                        for event in parser.feed(reader.take()):
                            yield event
        except Unreachable as error:
            raise self._codec.no_controller(error) from None

    async def close(self) -> None:
        await self._pool.close()
