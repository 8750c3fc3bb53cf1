"""Backends of both engines, for what goes over their wires."""

from __future__ import annotations

import json

import pytest
from harness.engines import ENGINES
from harness.stack import Running, SharedStacks, Stack

LIMITS = json.dumps({"memoryBytes": 2 << 30, "processes": 256})
"""The default limits of sessions differ between engines, and answers contain them."""


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package")
def http(stacks: SharedStacks, stack: Stack) -> Running:
    return stacks.backend(stack, "http", role="wire", VENVD_SESSION_LIMITS=LIMITS)


@pytest.fixture(scope="package")
def pipe(stacks: SharedStacks, stack: Stack) -> Running:
    return stacks.backend(stack, "pipe", role="wire", VENVD_SESSION_LIMITS=LIMITS)


@pytest.fixture(scope="package")
def rpc(stacks: SharedStacks, stack: Stack) -> Running:
    return stacks.backend(stack, "rpc", role="wire")
