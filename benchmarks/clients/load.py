"""A load generator: so many connections, each of which sends a line when its last one is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvloop

import venvd
from benchmarks.figure import Address, Probe, UnmeasurableError

LINE = b'{"id":1,"command":"eval","payload":{"expression":"1+1"}}\n'


class Caller(asyncio.Protocol):
    """One connection; `greeting` is what it sends first, and once."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self.ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._over: Callable[[], bool] = lambda: True
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._greeting:
            transport.write(self._greeting)
        else:
            self.ready.set_result(b"")

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not data.endswith(b"\n"):
            self._rest = data
            return
        self._rest = b""
        if not self.ready.done():
            self.ready.set_result(data)
        elif b'"error"' in data:
            raise UnmeasurableError(f"the answer was {data[:200]!r}")
        elif not self._over():
            self._transport.write(LINE)

    def begin(self, over: Callable[[], bool]) -> None:
        self._over = over
        self._transport.write(LINE)


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


async def _callers(path: str, greetings: list[bytes]) -> list[Caller]:
    loop = asyncio.get_running_loop()
    callers = []
    for greeting in greetings:
        _, caller = await loop.create_unix_connection(lambda line=greeting: Caller(line), path)
        if b'"error"' in await caller.ready:
            raise UnmeasurableError(f"the answer to {greeting[:40]!r} was {caller.ready.result()[:200]!r}")
        callers.append(caller)
    return callers


@contextmanager
def _loaded(at: Address, greetings: list[bytes]) -> Iterator[Probe]:
    loop = uvloop.new_event_loop()
    load = Load(loop.run_until_complete(_callers(urlsplit(at.url).path, greetings)))
    yield lambda batch: loop.run_until_complete(load.run(batch))


@contextmanager
def lines(at: Address, clients: int) -> Iterator[Probe]:
    """Against a server that echoes lines."""
    with _loaded(at, [b""] * clients) as probe:
        yield probe


@contextmanager
def attached(at: Address, clients: int, sessions: int) -> Iterator[Probe]:
    """Against a backend, each connection attached to one of some sessions."""
    with venvd.connect(at.url, at.token) as backend:
        made = [backend.sessions.create() for _ in range(sessions)]
        greeting = {"command": "session.attach", "token": at.token}
        names = [made[number % sessions].name for number in range(clients)]
        greetings = [json.dumps({**greeting, "payload": {"id": name}}).encode() + b"\n" for name in names]
        try:
            with _loaded(at, greetings) as probe:
                yield probe
        finally:
            for session in made:
                session.delete()
