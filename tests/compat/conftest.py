"""Backends of both engines that ask for no token, and the old clients connected to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from compat.clients import Client
from compat.connections import connect
from harness.engines import ENGINES
from harness.stack import Running, SharedStacks, Stack


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package")
def backends(stacks: SharedStacks, stack: Stack) -> Callable[[str], Running]:
    """Backends without a token, one of each type, each started when first asked for: old clients send no token."""
    return lambda kind: stacks.backend(stack, kind, VENVD_NO_TOKEN="true", VENVD_TOKEN_SHA256="")


@pytest.fixture(scope="package", params=["http", "pipe", "rpc"])
def backend(request: pytest.FixtureRequest, backends: Callable[[str], Running]) -> tuple[str, Running]:
    """The type of a backend, and the backend."""
    return request.param, backends(request.param)


@pytest.fixture(scope="package")
def rpc(backends: Callable[[str], Running]) -> Running:
    return backends("rpc")


@pytest.fixture
def client(backend: tuple[str, Running]) -> Iterator[Client]:
    """The old client of the backend's type, connected to it."""
    made = connect(*backend)
    yield made
    made.close()
