"""A controller in this process over the local engine, reached through its ASGI application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from venvd_controller import app
from venvd_controller.home import Home
from venvd_controller.program import Program, build
from venvd_controller.settings import Settings
from venvd_engines.select import choose


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", engine="local", reconcile_interval=0.1)


@pytest.fixture
def program(settings: Settings) -> Iterator[Program]:
    """A controller that is built and not started: nothing runs its operations."""
    home = Home(settings.home)
    engine, reason = choose("local", settings.for_engine(home.id))
    yield build(settings, home, engine, reason)
    home.close()


@pytest.fixture
def client(program: Program) -> Iterator[TestClient]:
    """A client with the admin's token; the controller runs as long as the test."""
    headers = {"Authorization": f"Bearer {program.home.token}"}
    with TestClient(app.create(program), headers=headers, raise_server_exceptions=False) as made:
        yield made
