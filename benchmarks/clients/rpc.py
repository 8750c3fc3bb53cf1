"""Clients with grpc.aio on uvloop that send and receive bytes; floor and backend get the same client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import grpc
import uvloop

from benchmarks.clients.raw import expect
from benchmarks.clients.timing import median_of_async
from benchmarks.figure import Address, Probe
from venvd_proto.v1.python_service_pb2 import EvaluateRequest, SessionRequest

UNARY = EvaluateRequest(expression="1+1").SerializeToString()
STREAM = SessionRequest(id=1, command="eval", payload_json='{"expression":"1+1"}').SerializeToString()


def make_metadata(at: Address, session: str = "") -> tuple[tuple[str, str], ...]:
    """The metadata of a call in this session."""
    metadata = (("authorization", f"Bearer {at.token or 'a token of similar length'}"),)
    return (*metadata, ("x-venvd-session", session)) if session else metadata


@contextmanager
def unary(at: Address, method: str, expected: str = "") -> Iterator[Probe]:
    """One unary call after another."""
    loop = uvloop.new_event_loop()
    metadata = make_metadata(at)

    async def open_call() -> Callable[[], Awaitable[bytes]]:
        call = grpc.aio.insecure_channel(urlsplit(at.url).netloc).unary_unary(method)
        expect(await call(UNARY, metadata=metadata), expected.encode())
        return lambda: call(UNARY, metadata=metadata)

    call = loop.run_until_complete(open_call())
    yield lambda batch: loop.run_until_complete(median_of_async(call, batch))


@contextmanager
def stream(at: Address, method: str, expected: str = "") -> Iterator[Probe]:
    """One message after another on one bidirectional stream, each answered before the next."""
    loop = uvloop.new_event_loop()

    async def open_call() -> Callable[[], Awaitable[bytes]]:
        messages = grpc.aio.insecure_channel(urlsplit(at.url).netloc).stream_stream(method)(metadata=make_metadata(at))

        async def call() -> bytes:
            await messages.write(STREAM)
            reply: bytes = await messages.read()
            return reply

        expect(await call(), expected.encode())
        return call

    call = loop.run_until_complete(open_call())
    yield lambda batch: loop.run_until_complete(median_of_async(call, batch))
