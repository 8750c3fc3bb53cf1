"""A load generator: each of its connections sends the next request when it has received the last answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import uvloop

import venvd
from benchmarks.clients import direct
from benchmarks.clients.raw import EVAL_LINE, is_complete, make_post
from benchmarks.clients.rpc import UNARY, make_metadata
from benchmarks.clients.sdk import check_answer
from benchmarks.figure import Address, Probe, UnmeasurableError

CHANNELS = 8
"""Connections of gRPC clients."""


def is_line(data: bytes) -> bool:
    """Whether these bytes end with a line."""
    return data.endswith(b"\n")


class Caller(asyncio.Protocol):
    """One connection or two pipes. Replies arrive in `data_received`; `write` sends requests."""

    def __init__(self, request: bytes = EVAL_LINE, is_whole: Callable[[bytes], bool] = is_line) -> None:
        self.write: Callable[[bytes], None]
        self._request, self._is_whole = request, is_whole
        self._finish: Callable[[], bool] = lambda: True
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self._is_whole(data):
            self._rest = data
            return
        self._rest = b""
        if b'"error"' in data:
            raise UnmeasurableError(f"the answer was {data[:200]!r}")
        if not self._finish():
            self.write(self._request)

    def start(self, finish: Callable[[], bool]) -> None:
        """Send the first request. `finish` counts an answer and says whether the caller stops."""
        self._finish = finish
        self.write(self._request)


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


@contextmanager
def http_clients(at: Address, clients: int, sessions: int = 0) -> Iterator[Probe]:
    """Clients of an HTTP server, one connection each, distributed over some sessions."""
    loop = uvloop.new_event_loop()
    host, _, port = urlsplit(at.url).netloc.partition(":")
    with _sessions(at, sessions) as names:

        async def connect(session: str) -> Caller:
            request = make_post(at, session)
            transport, caller = await loop.create_connection(lambda: Caller(request, is_complete), host, int(port))
            caller.write = transport.write
            return caller

        load = loop.run_until_complete(_create_load(connect(names[number % len(names)]) for number in range(clients)))
        yield lambda batch: loop.run_until_complete(load.run(batch))


@contextmanager
def rpc_clients(at: Address, method: str, clients: int, sessions: int = 0) -> Iterator[Probe]:
    """Tasks that make one unary call after another over eight connections, distributed over some sessions."""
    loop = uvloop.new_event_loop()
    with _sessions(at, sessions) as names:

        async def open_calls() -> list[Callable[[], Coroutine[None, None, None]]]:
            options = (("grpc.use_local_subchannel_pool", 1),)
            channels = [grpc.aio.insecure_channel(urlsplit(at.url).netloc, options) for _ in range(CHANNELS)]
            calls = [channel.unary_unary(method) for channel in channels]
            return [_make_call(calls[n % CHANNELS], make_metadata(at, names[n % len(names)])) for n in range(clients)]

        calls = loop.run_until_complete(open_calls())
        loop.run_until_complete(_repeat(calls, 1))
        yield lambda batch: loop.run_until_complete(_repeat(calls, batch // clients))


def _make_call(method: Any, metadata: tuple[tuple[str, str], ...]) -> Callable[[], Coroutine[None, None, None]]:
    async def call() -> None:
        if not await method(UNARY, metadata=metadata):
            raise UnmeasurableError("the answer was empty")

    return call


async def _repeat(calls: list[Callable[[], Coroutine[None, None, None]]], times: int) -> float:
    """Make each call some times, all of them at once, and return the calls per second."""

    async def run(call: Callable[[], Coroutine[None, None, None]]) -> None:
        for _ in range(times):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*map(run, calls))
    return len(calls) * times / (time.perf_counter() - start)


@contextmanager
def _sessions(at: Address, count: int) -> Iterator[list[str]]:
    """New sessions of a backend; for a floor, which has none, one empty name."""
    if not count:
        yield [""]
        return
    with venvd.connect(at.url, at.token) as backend, ExitStack() as resources:
        targets = [backend.sessions.create() for _ in range(count)]
        for session in targets:
            resources.callback(session.delete)
            check_answer(session.eval("1+1"))
        yield [session.name for session in targets]
