"""Both engines, each with a home of its own; whatever a test leaves is removed by the home's identity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.bench import Bench, opened
from harness.engines import ENGINES
from harness.stack import Quiet

from venvd_engines.engine import Image


@pytest.fixture(scope="package", params=ENGINES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with opened(request.param) as made:
        yield made


@pytest.fixture(scope="package")
def image(bench: Bench) -> Image:
    """A venv with nothing in it."""
    return bench.engine.build(bench.wanted(), Quiet())


@pytest.fixture(scope="package")
def docker_bench() -> Iterator[Bench]:
    with opened("docker") as made:
        yield made


@pytest.fixture(scope="package")
def docker_image(docker_bench: Bench) -> Image:
    return docker_bench.engine.build(docker_bench.wanted(), Quiet())
