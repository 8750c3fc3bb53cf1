"""A controller on each engine, with a small venv and a backend that tests share."""

from __future__ import annotations

import http.client
import sys
from typing import Any

import pytest
from harness.controller import Controller, SharedControllers
from harness.engines import ENGINES


@pytest.fixture(scope="package", params=ENGINES)
def controller(request: pytest.FixtureRequest, controllers: SharedControllers) -> Controller:
    return controllers.controller(request.param)


@pytest.fixture(scope="package")
def minor() -> str:
    """The CPython that this machine has for every engine."""
    return f"3.{sys.version_info.minor}"


@pytest.fixture(scope="package")
def small(controller: Controller, minor: str) -> str:
    """The name of a venv with one small package."""
    controller.venv("small", python=minor, requirements=["six==1.17.0"])
    return "small"


@pytest.fixture(scope="package")
def backend(controller: Controller, small: str) -> dict[str, Any]:
    """A running backend of the small venv, for tests that only use it."""
    status, existing = controller.raw("GET", "/v1/backends/shared")
    return existing if status == http.client.OK else controller.backend(small, name="shared")
