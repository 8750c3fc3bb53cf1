"""A venv with numpy and pandas on each engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.stack import Stack, engine_stack

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]
REQUIREMENTS = ("numpy", "pandas")


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with engine_stack(request.param, tmp_path_factory.mktemp(request.param), REQUIREMENTS) as made:
        yield made
