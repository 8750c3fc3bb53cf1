"""Calls with arrays and tables among their values, which the client sends before the call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from venvd._arrays import bytes_of
from venvd._calls import SessionCalls
from venvd._tables import stream_of
from venvd._transports.base import AsyncTransport, Call, Event

T = TypeVar("T")


async def send_uploads(calls: SessionCalls, transport: AsyncTransport, call: Call[Any]) -> list[Any]:
    """Send what a call needs, and return the proxies. They must live until the call has run."""
    proxies = []
    for upload in call.uploads:
        if upload.into is None:
            header, data = bytes_of(upload.value)
            proxy = await transport.put_array(calls.put_array(header, call.timeout), data)
        else:
            data = stream_of(upload.value)
            proxy = await transport.put_array(calls.put_table(len(data), upload.into, call.timeout), data)
        upload.place["$handle"] = proxy._venvd_id
        proxies.append(proxy)
    return proxies


async def run_uploading(calls: SessionCalls, transport: AsyncTransport, call: Call[T]) -> T:
    """Send what a call needs, and then the call."""
    proxies = await send_uploads(calls, transport, call)
    try:
        return await transport.call(call)
    finally:
        proxies.clear()


async def stream_uploading(
    calls: SessionCalls, transport: AsyncTransport, call: Call[Any]
) -> AsyncGenerator[Event, None]:
    """Send what a call needs, and yield the events of the call."""
    proxies = await send_uploads(calls, transport, call)
    try:
        async for event in transport.stream(call):
            yield event
    finally:
        proxies.clear()
