from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.controller import Controller, running_controller

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="module", params=ENGINES)
def controller(request: pytest.FixtureRequest) -> Iterator[Controller]:
    with running_controller(request.param) as controller:
        yield controller
