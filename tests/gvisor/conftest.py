"""Backends whose worker hosts run under gVisor, where the engine has it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness.callers import WAYS, Caller
from harness.stack import Running, SharedStacks, Stack

from venvd_contract.errors import InvalidRequest

RUNTIME = "runsc"


@pytest.fixture(scope="package")
def stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture(scope="package")
def backends(stack: Stack) -> Iterator[dict[str, Running]]:
    """A backend of each type, started when it is asked for."""
    started: dict[str, Running] = {}
    yield started
    for running in started.values():
        stack.stop(running)


@pytest.fixture(scope="package", params=["http", "pipe", "rpc", "attach"])
def call(stack: Stack, backends: dict[str, Running], request: pytest.FixtureRequest) -> Iterator[Caller]:
    """A client of each transport."""
    kind, made = WAYS[request.param]
    if kind not in backends:
        backends[kind] = start(stack, kind)
    client = made(backends[kind].url, backends[kind].token)
    client.running = backends[kind]
    yield client
    client.close()


def start(stack: Stack, kind: str) -> Running:
    """A backend under gVisor; the test is skipped where the engine has no such runtime."""
    try:
        return stack.start(kind, oci_runtime=RUNTIME, VENVD_GRACE="5")
    except InvalidRequest as error:
        if os.environ.get("VENVD_TEST_OCI_RUNTIME") == RUNTIME:
            raise
        pytest.skip(error.message)
