"""A load generator: so many connections, each of which sends a line when its last one is answered."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import uvloop

import venvd
from benchmarks.clients import direct
from benchmarks.clients.lean import EVAL_LINE
from benchmarks.figure import Address, Probe, UnmeasurableError


class Caller(asyncio.Protocol):
    """One connection, or two pipes: reads here, writes through `write`."""

    def __init__(self) -> None:
        self.write: Callable[[bytes], None]
        self._over: Callable[[], bool] = lambda: True
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not data.endswith(b"\n"):
            self._rest = data
            return
        self._rest = b""
        if b'"error"' in data:
            raise UnmeasurableError(f"the answer was {data[:200]!r}")
        if not self._over():
            self.write(EVAL_LINE)

    def begin(self, over: Callable[[], bool]) -> None:
        self._over = over
        self.write(EVAL_LINE)


class Load:
    """Lets all callers make a number of calls together."""

    def __init__(self, callers: list[Caller]) -> None:
        self._callers = callers

    async def run(self, batch: int) -> float:
        """Calls a second."""
        self._left = batch
        self._done = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        for caller in self._callers:
            caller.begin(self._over)
        await self._done
        return batch / (time.perf_counter() - begun)

    def _over(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._done.set_result(None)
        return self._left < len(self._callers)


async def _connected(path: str) -> Caller:
    transport, caller = await asyncio.get_running_loop().create_unix_connection(Caller, path)
    caller.write = transport.write
    return caller


async def _piped(requests: int, replies: int) -> Caller:
    """A direct client of a session, whose lines go over pipes."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.connect_read_pipe(Caller, os.fdopen(os.dup(replies), "rb", 0))
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(requests), "wb", 0))
    caller.write = transport.write
    return caller


async def _all(making: Iterable[Coroutine[None, None, Caller]]) -> Load:
    return Load([await each for each in making])


@contextmanager
def lines(at: Address, clients: int) -> Iterator[Probe]:
    """Against a server that echoes lines."""
    loop = uvloop.new_event_loop()
    path = urlsplit(at.url).path
    load = loop.run_until_complete(_all(_connected(path) for _ in range(clients)))
    yield lambda batch: loop.run_until_complete(load.run(batch))


@contextmanager
def attached(at: Address, clients: int, sessions: int) -> Iterator[Probe]:
    """Against a backend, each client attached to one of some sessions."""
    loop = uvloop.new_event_loop()
    with venvd.connect(at.url, at.token) as backend, ExitStack() as open_ends:
        made = [backend.sessions.create() for _ in range(sessions)]
        for session in made:
            open_ends.callback(session.delete)
        ends = [direct.pipes(at, open_ends, made[number % sessions].name) for number in range(clients)]
        load = loop.run_until_complete(_all(_piped(*each) for each in ends))
        yield lambda batch: loop.run_until_complete(load.run(batch))
