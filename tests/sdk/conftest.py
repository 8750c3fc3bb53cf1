from __future__ import annotations

import pytest
from harness.stack import Running, SharedStacks, Stack

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package", params=["http", "pipe", "rpc"])
def running(stacks: SharedStacks, stack: Stack, request: pytest.FixtureRequest) -> Running:
    """A backend of each type; `running.url` says which."""
    return stacks.backend(stack, request.param)
