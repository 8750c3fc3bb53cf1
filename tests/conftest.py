"""What the suites share: engines with a venv and controllers, made once for each test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.controller import SharedControllers
from harness.stack import SharedStacks


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStacks]:
    shared = SharedStacks(tmp_path_factory.mktemp)
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def controllers() -> Iterator[SharedControllers]:
    shared = SharedControllers()
    yield shared
    shared.close()
