"""One controller per engine for the suite, with a small venv."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from harness.controller import Controller, running_controller

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def controller(request: pytest.FixtureRequest) -> Iterator[Controller]:
    with running_controller(request.param) as made:
        yield made


@pytest.fixture(scope="package")
def minor() -> str:
    """The CPython that this machine has for every engine."""
    return f"3.{sys.version_info.minor}"


@pytest.fixture(scope="package")
def small(controller: Controller, minor: str) -> str:
    """The name of a venv with one small package."""
    controller.venv("small", python=minor, requirements=["six==1.17.0"])
    return "small"
