"""One backend per transport on the local engine, whose processes can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import CALLERS
from harness.stack import Running, SharedStacks, Stack


@pytest.fixture(scope="package")
def stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("local")


@pytest.fixture(params=list(CALLERS))
def kind(request: pytest.FixtureRequest) -> str:
    """A transport."""
    return str(request.param)


@pytest.fixture
def running(stack: Stack, kind: str) -> Iterator[Running]:
    made = stack.start(kind)
    yield made
    stack.stop(made)
