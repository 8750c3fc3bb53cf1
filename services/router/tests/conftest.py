"""A router in front of two replicas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.router import NAMES, TOKEN, Replicas, Router, Routers, start_replicas
from harness.stack import Stack, engine_stack

import venvd


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


@pytest.fixture
def backend(router: Router) -> Iterator[venvd.Backend]:
    with venvd.connect(router.url, TOKEN) as backend:
        yield backend


@pytest.fixture(params=[0, 1])
def session(backend: venvd.Backend, request: pytest.FixtureRequest) -> Iterator[venvd.Session]:
    """A session with a name on each replica."""
    for name in NAMES:
        session = backend.sessions.create(name)
        if session.name.startswith(f"{request.param}-"):
            yield session
            session.delete()
            return
        session.delete()
    raise AssertionError("no name leads there")
