from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.controller import Controller, running_controller
from harness.engines import ENGINES


@pytest.fixture(scope="module", params=ENGINES)
def controller(request: pytest.FixtureRequest) -> Iterator[Controller]:
    with running_controller(request.param) as controller:
        yield controller
