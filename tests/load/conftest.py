"""One backend per transport on the local engine, whose processes can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import CALLERS
from harness.stack import Running, Stack, engine_stack


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with engine_stack("local", tmp_path_factory.mktemp("load")) as made:
        yield made


@pytest.fixture(params=list(CALLERS))
def kind(request: pytest.FixtureRequest) -> str:
    """A transport."""
    return str(request.param)


@pytest.fixture
def running(stack: Stack, kind: str) -> Iterator[Running]:
    made = stack.start(kind)
    yield made
    stack.stop(made)
