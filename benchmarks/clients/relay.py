"""The cost of a process between client and session that only passes bytes on, on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvloop

from benchmarks.clients import direct, raw
from benchmarks.clients.timing import median_of
from benchmarks.figure import Address, Probe


class Forwarder(asyncio.Protocol):
    """Writes all that it reads to the other side, and ends the process when its connection ends."""

    def __init__(self, other: asyncio.WriteTransport) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        self._other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        os._exit(0)


async def _relay(client: socket.socket, requests: int, replies: int) -> None:
    loop = asyncio.get_running_loop()
    to_session, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(requests, "wb", 0))
    to_client, _ = await loop.create_unix_connection(lambda: Forwarder(to_session), sock=client)
    await loop.connect_read_pipe(lambda: Forwarder(to_client), os.fdopen(replies, "rb", 0))
    await loop.create_future()


@contextmanager
def through_relay(at: Address) -> Iterator[Probe]:
    """Send an `eval` as a line through a relay process to the session, and receive its answer."""
    with ExitStack() as resources:
        requests, replies = direct.open_pipes(at, resources)
        mine, theirs = map(resources.enter_context, socket.socketpair())
        child = os.fork()
        if not child:
            mine.close()
            uvloop.run(_relay(theirs, requests, replies))
        theirs.close()
        try:
            raw.expect(raw.exchange(mine, raw.EVAL_LINE), b'"value":')
            yield median_of(lambda: raw.exchange(mine, raw.EVAL_LINE))
        finally:
            mine.close()
            os.waitpid(child, 0)
