"""A backend without a token per engine and old client, and the client connected to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compat.clients import Client
from compat.connections import connect
from harness.stack import Running, SharedStacks, Stack

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package", params=["http", "pipe", "rpc"])
def backend(request: pytest.FixtureRequest, stack: Stack) -> Iterator[tuple[str, Running]]:
    """The type of a backend, and the backend: old clients send no token."""
    running = stack.start(request.param, VENVD_NO_TOKEN="true", VENVD_TOKEN_SHA256="")
    yield request.param, running
    stack.stop(running)


@pytest.fixture
def client(backend: tuple[str, Running]) -> Iterator[Client]:
    made = connect(*backend)
    yield made
    made.close()
