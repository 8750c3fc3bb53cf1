"""One running backend per transport and engine, and one way to call it.

The suite is written once against `call`; the transports differ only in `harness.callers`, which speaks them without
any code of the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import WAYS, Caller
from harness.engines import ENGINES, list_ways
from harness.stack import SharedStacks, Stack


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    """An engine with one bare venv."""
    return stacks.stack(request.param)


@pytest.fixture(scope="package", params=list_ways(WAYS))
def caller(stacks: SharedStacks, stack: Stack, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """A client of one transport, connected to a running backend of its type."""
    kind, made = WAYS[request.param]
    running = stacks.backend(stack, kind)
    client = made(running.url, running.token)
    client.running = running
    yield client
    client.close()


@pytest.fixture
def call(caller: Caller) -> Caller:
    return caller
