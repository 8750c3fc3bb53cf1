"""One running backend per transport and engine, and one way to call it.

The suite is written once against `call`; the transports differ only in `harness.callers`, which speaks them without
any code of the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import WAYS, Caller
from harness.stack import Stack, engine_stack

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An engine with one bare venv; what it made is gone afterwards."""
    with engine_stack(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(scope="package", params=list(WAYS))
def caller(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """A client of one transport, connected to a running backend of its type."""
    kind, made = WAYS[request.param]
    running = stack.start(kind)
    client = made(running.url, running.token)
    client.running = running
    yield client
    client.close()
    stack.stop(running)


@pytest.fixture
def call(caller: Caller) -> Caller:
    return caller
