"""A venv with numpy and pandas on each engine."""

from __future__ import annotations

import pytest
from harness.engines import ENGINES
from harness.stack import SharedStacks, Stack

REQUIREMENTS = ("numpy", "pandas")


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param, *REQUIREMENTS)
