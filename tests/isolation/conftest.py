from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import HttpCaller
from harness.stack import Running, SharedStacks, Stack


@pytest.fixture(scope="package")
def docker_stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture(scope="package")
def running(docker_stack: Stack) -> Iterator[Running]:
    made = docker_stack.start("http", VENVD_CANARY="canary-of-the-server")
    yield made
    docker_stack.stop(made)


@pytest.fixture
def call(running: Running) -> Iterator[HttpCaller]:
    made = HttpCaller(running.url, running.token)
    yield made
    made.close()
