from __future__ import annotations

import pytest
from harness.engines import ENGINES
from harness.stack import Running, SharedStacks, Stack


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package", params=["http", "pipe", "rpc"])
def running(stacks: SharedStacks, stack: Stack, request: pytest.FixtureRequest) -> Running:
    """A backend of each type; `running.url` says which."""
    return stacks.backend(stack, request.param)
