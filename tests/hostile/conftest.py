"""One backend per transport in front of real worker hosts, and the proof after each test that it still serves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from harness.callers import CALLERS, Caller
from harness.door import Door, door
from harness.measure import Parts, parts
from harness.stack import Running, SharedStacks, Stack

SETTINGS = {"VENVD_GRACE": "0.5", "VENVD_STALL_TIMEOUT": "2"}


@dataclass
class Target:
    """A backend under attack."""

    kind: str
    running: Running
    parts: Parts

    @property
    def main(self) -> Door:
        return door(self.kind, self.running)

    @property
    def probes(self) -> Door:
        return door(self.kind, self.running, probes=True)

    def doors(self) -> list[Door]:
        """Everywhere it listens."""
        return list(dict.fromkeys([self.main, self.probes]))

    @contextlib.contextmanager
    def caller(self) -> Iterator[Caller]:
        made = CALLERS[self.kind](self.running.url, self.running.token)
        yield made
        made.close()

    def default(self) -> dict[str, Any]:
        with self.caller() as call:
            found: dict[str, Any] = call("session.get", {"id": "default"})
        return found

    def serves(self) -> None:
        """The next client is served, and so is who asks for its health."""
        with self.caller() as call:
            assert call("eval", {"expression": "6 * 7"}) == {"value": 42}
        with self.probes.open() as raw:
            raw.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert raw.rest().startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="package")
def stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("local")


@contextlib.contextmanager
def started(stack: Stack, kind: str) -> Iterator[Target]:
    running = stack.start(kind, **SETTINGS)
    target = Target(kind, running, parts(stack, running))
    try:
        yield target
        assert parts(stack, running) == target.parts
        assert stack.engine.inspect(running.record).running
    finally:
        stack.stop(running)


@pytest.fixture(scope="package")
def http(stack: Stack) -> Iterator[Target]:
    with started(stack, "http") as target:
        yield target


@pytest.fixture(scope="package")
def pipe(stack: Stack) -> Iterator[Target]:
    with started(stack, "pipe") as target:
        yield target


@pytest.fixture(scope="package")
def rpc(stack: Stack) -> Iterator[Target]:
    with started(stack, "rpc") as target:
        yield target


@pytest.fixture(params=["http", "pipe", "rpc"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each transport."""
    found: Target = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=[("http", False), ("pipe", True), ("rpc", True)], ids=["http", "pipe-probes", "rpc-http"])
def http_door(request: pytest.FixtureRequest) -> tuple[Target, Door]:
    """Each place where HTTP is spoken."""
    kind, probes = request.param
    found: Target = request.getfixturevalue(kind)
    return found, found.probes if probes else found.main
