"""Backends of both engines, for what goes over their wires."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness.engines import ENGINES
from harness.stack import Running, SharedStacks, Stack

LIMITS = json.dumps({"memoryBytes": 2 << 30, "processes": 256})
"""The default limits of sessions differ between engines, and answers contain them."""


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package")
def http(stack: Stack) -> Iterator[Running]:
    made = stack.start("http", VENVD_SESSION_LIMITS=LIMITS)
    yield made
    stack.stop(made)


@pytest.fixture(scope="package")
def pipe(stack: Stack) -> Iterator[Running]:
    made = stack.start("pipe", VENVD_SESSION_LIMITS=LIMITS)
    yield made
    stack.stop(made)


@pytest.fixture(scope="package")
def rpc(stack: Stack) -> Iterator[Running]:
    made = stack.start("rpc")
    yield made
    stack.stop(made)
