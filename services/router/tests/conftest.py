"""A router in front of two replicas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.router import Replicas, Routers, start_replicas
from harness.stack import Stack, engine_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with engine_stack("local", tmp_path_factory.mktemp("local"), ("numpy",)) as stack:
        yield stack


@pytest.fixture(scope="session")
def http_replicas(stack: Stack) -> Replicas:
    return start_replicas(stack, "http")


@pytest.fixture(scope="session")
def rpc_replicas(stack: Stack) -> Replicas:
    return start_replicas(stack, "rpc")


@pytest.fixture(scope="session")
def routers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routers]:
    routers = Routers(tmp_path_factory.mktemp)
    yield routers
    routers.stop()
