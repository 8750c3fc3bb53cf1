"""A load generator: each of its connections sends the next line when it has received the last answer."""

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
from benchmarks.clients.raw import EVAL_LINE
from benchmarks.figure import Address, Probe, UnmeasurableError


class Caller(asyncio.Protocol):
    """One connection or two pipes. Replies arrive in `data_received`; `write` sends requests."""

    def __init__(self) -> None:
        self.write: Callable[[bytes], None]
        self._finish: Callable[[], bool] = lambda: True
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not data.endswith(b"\n"):
            self._rest = data
            return
        self._rest = b""
        if b'"error"' in data:
            raise UnmeasurableError(f"the answer was {data[:200]!r}")
        if not self._finish():
            self.write(EVAL_LINE)

    def start(self, finish: Callable[[], bool]) -> None:
        """Send the first line. `finish` counts an answer and says whether the caller stops."""
        self._finish = finish
        self.write(EVAL_LINE)


class Load:
    """Runs a number of calls, divided among all callers."""

    def __init__(self, callers: list[Caller]) -> None:
        self._callers = callers

    async def run(self, batch: int) -> float:
        """Run a batch and return the calls per second."""
        self._unanswered = batch
        self._done = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        for caller in self._callers:
            caller.start(self._count_answer)
        await self._done
        return batch / (time.perf_counter() - start)

    def _count_answer(self) -> bool:
        """Count one answer; true if its caller sends no more."""
        self._unanswered -= 1
        if self._unanswered == 0:
            self._done.set_result(None)
        return self._unanswered < len(self._callers)


async def _connect(path: str) -> Caller:
    transport, caller = await asyncio.get_running_loop().create_unix_connection(Caller, path)
    caller.write = transport.write
    return caller


async def _connect_pipes(requests: int, replies: int) -> Caller:
    """A direct client of a session that uses two pipes."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.connect_read_pipe(Caller, os.fdopen(os.dup(replies), "rb", 0))
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(requests), "wb", 0))
    caller.write = transport.write
    return caller


async def _create_load(callers: Iterable[Coroutine[None, None, Caller]]) -> Load:
    return Load([await caller for caller in callers])


@contextmanager
def line_clients(at: Address, clients: int) -> Iterator[Probe]:
    """Clients of a server that echoes lines."""
    loop = uvloop.new_event_loop()
    path = urlsplit(at.url).path
    load = loop.run_until_complete(_create_load(_connect(path) for _ in range(clients)))
    yield lambda batch: loop.run_until_complete(load.run(batch))


@contextmanager
def direct_clients(at: Address, clients: int, sessions: int) -> Iterator[Probe]:
    """Clients of a backend, distributed over some sessions and each attached to its session."""
    loop = uvloop.new_event_loop()
    with venvd.connect(at.url, at.token) as backend, ExitStack() as resources:
        targets = [backend.sessions.create() for _ in range(sessions)]
        for session in targets:
            resources.callback(session.delete)
        pipes = [direct.open_pipes(at, resources, targets[number % sessions].name) for number in range(clients)]
        load = loop.run_until_complete(_create_load(_connect_pipes(*pair) for pair in pipes))
        yield lambda batch: loop.run_until_complete(load.run(batch))
