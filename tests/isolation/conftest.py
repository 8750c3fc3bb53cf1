from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from harness.callers import HttpCaller
from harness.stack import Running, SharedStacks, Stack


@pytest.fixture(scope="package")
def docker_stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture(scope="package")
def running(docker_stack: Stack) -> Iterator[Running]:
    running = docker_stack.start("http", VENVD_CANARY="canary-of-the-server")
    yield running
    docker_stack.stop(running)


@pytest.fixture
def call(running: Running) -> Iterator[HttpCaller]:
    with closing(HttpCaller(running.url, running.token)) as call:
        yield call
