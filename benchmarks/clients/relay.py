"""What a process between a client and a session costs when it does nothing: it passes bytes on, on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvloop

from benchmarks.clients import direct, lean
from benchmarks.clients.timing import median_of
from benchmarks.figure import Address, Probe


class End(asyncio.Protocol):
    """Writes what it reads to the other end; the process ends with it."""

    def __init__(self, other: asyncio.WriteTransport) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        self._other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        os._exit(0)


async def _relay(front: socket.socket, requests: int, replies: int) -> None:
    loop = asyncio.get_running_loop()
    to_session, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(requests, "wb", 0))
    to_client, _ = await loop.create_unix_connection(lambda: End(to_session), sock=front)
    await loop.connect_read_pipe(lambda: End(to_client), os.fdopen(replies, "rb", 0))
    await loop.create_future()


@contextmanager
def relayed(at: Address) -> Iterator[Probe]:
    """An `eval` as a line that goes through such a process to the session, and its answer back."""
    with ExitStack() as open_ends:
        requests, replies = direct.pipes(at, open_ends)
        mine, front = map(open_ends.enter_context, socket.socketpair())
        child = os.fork()
        if not child:
            mine.close()
            uvloop.run(_relay(front, requests, replies))
        front.close()
        try:
            lean.expect(lean.asked(mine, lean.EVAL_LINE), b'"value":')
            yield median_of(lambda: lean.asked(mine, lean.EVAL_LINE))
        finally:
            mine.close()
            os.waitpid(child, 0)
