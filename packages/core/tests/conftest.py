"""A backend in the test's own loop, and wardens as processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from venvd_contract.internal.limits import NO_LIMITS, merge_limits
from venvd_contract.session_requests import Limits
from venvd_core.backend import Backend, Call, Request
from venvd_core.settings import BackendSettings

PEER = Path(__file__).with_name("peer.py")

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=[pytest.param("asyncio", marks=pytest.mark.long), "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function to its end on one of the two loops, within a minute; the servers run on uvloop."""

    def runner(work: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await work()

        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(bounded())

    return runner


@pytest.fixture
def channel() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="venvd-") as directory:
        yield Path(directory)


class Wardens:
    """Starts wardens for one channel; ends what is left of them."""

    def __init__(self, channel: Path) -> None:
        self.channel = channel
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *traits: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, str(PEER), str(self.channel), *traits])
        self.started.append(process)
        return process


@pytest.fixture
def wardens(channel: Path) -> Iterator[Wardens]:
    made = Wardens(channel)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


class Client:
    """A backend, and short words for calling it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def begin(self, do: str = "echo", *, request: dict[str, Any] | None = None, **payload: Any) -> Call:
        body = json.dumps({"do": do, **payload}).encode()
        asked = dict(request or {})
        on_event = asked.pop("on_event", None)
        call = Call(Request("eval", body, **asked), on_event=on_event)
        self.backend.begin(call)
        return call

    async def do(self, do: str = "echo", *, request: dict[str, Any] | None = None, **payload: Any) -> Any:
        return json.loads((await self.begin(do, request=request, **payload)).result)

    async def command(self, command: str, /, **payload: Any) -> Any:
        return json.loads((await self.backend.call(Request(command, json.dumps(payload).encode()))).result)

    async def ready(self) -> None:
        await self.until(lambda: not self.backend.ready())

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition, asked again and again as a probe does; it may be a coroutine function."""
        async with asyncio.timeout(20):
            while True:
                value = condition()
                if await value if asyncio.iscoroutine(value) else value:
                    return
                await asyncio.sleep(0.01)

    async def session_ids(self) -> list[str]:
        return [each["id"] for each in (await self.command("session.list"))["sessions"]]


Serve = Callable[..., Any]


@pytest.fixture
def serve(channel: Path) -> Serve:
    """Opens a backend on the channel, with other settings where they are given: limits by their names alone."""

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Client]:
        for name, defaults in {"session_limits": Limits(), "max_session_limits": NO_LIMITS}.items():
            if name in settings:
                settings[name] = merge_limits(defaults, settings[name])
        backend = Backend(
            BackendSettings(channel=channel, **{"no_token": True, "grace": 0.3, "standby": 0, **settings})
        )
        await backend.start()
        try:
            yield Client(backend)
        finally:
            await backend.close()

    return serving
