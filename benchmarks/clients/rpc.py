"""gRPC clients of grpc.aio on uvloop that send and take bytes, the same for floor and backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import grpc
import uvloop

from benchmarks.clients.lean import expect
from benchmarks.clients.timing import median_of_async
from benchmarks.figure import Address, Probe
from venvd_proto.v1.python_service_pb2 import EvaluateRequest, SessionRequest

UNARY = EvaluateRequest(expression="1+1").SerializeToString()
STREAM = SessionRequest(id=1, command="eval", payload_json='{"expression":"1+1"}').SerializeToString()


def _metadata(at: Address) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {at.token or 'of the same length as one'}"),)


@contextmanager
def unary(at: Address, method: str, wanted: str = "") -> Iterator[Probe]:
    """One unary call after the other."""
    loop = uvloop.new_event_loop()
    metadata = _metadata(at)

    async def begin() -> Callable[[], Awaitable[bytes]]:
        call = grpc.aio.insecure_channel(urlsplit(at.url).netloc).unary_unary(method)
        expect(await call(UNARY, metadata=metadata), wanted.encode())
        return lambda: call(UNARY, metadata=metadata)

    call = loop.run_until_complete(begin())
    yield lambda batch: loop.run_until_complete(median_of_async(call, batch))


@contextmanager
def stream(at: Address, method: str, wanted: str = "") -> Iterator[Probe]:
    """One message after the other on one bidirectional stream, each answered before the next."""
    loop = uvloop.new_event_loop()

    async def begin() -> Callable[[], Awaitable[bytes]]:
        opened = grpc.aio.insecure_channel(urlsplit(at.url).netloc).stream_stream(method)(metadata=_metadata(at))

        async def call() -> bytes:
            await opened.write(STREAM)
            reply: bytes = await opened.read()
            return reply

        expect(await call(), wanted.encode())
        return call

    call = loop.run_until_complete(begin())
    yield lambda batch: loop.run_until_complete(median_of_async(call, batch))
