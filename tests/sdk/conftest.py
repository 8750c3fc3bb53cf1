from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.stack import Running, Stack, engine_stack

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with engine_stack(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(scope="package", params=["http", "pipe", "rpc"])
def running(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Running]:
    """A backend of each type; `running.url` says which."""
    made = stack.start(request.param)
    yield made
    stack.stop(made)
