"""A controller with a Prometheus beside it that was started before any backend."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.controller import Controller, running_controller
from harness.prometheus import PrometheusProcess, config_for, program


@dataclass
class Watched:
    """What a scraper sees, and a bare venv to start backends in."""

    controller: Controller
    prometheus: PrometheusProcess
    venv: str


@contextlib.contextmanager
def watched_controller(engine: str, place: Path) -> Iterator[Watched]:
    program("prometheus")
    token = place / "handed-out" / "token"
    with running_controller(engine, VENVD_METRICS_TOKEN_FILE=str(token)) as controller:
        prometheus = PrometheusProcess(place, config_for(controller, token))
        try:
            prometheus.start()
            prometheus.until('up{job="venvd-controller"} == 1')
            controller.venv("bare", python=f"3.{sys.version_info.minor}", preload=["json"])
            yield Watched(controller, prometheus, "bare")
        finally:
            prometheus.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_controller("local", tmp_path_factory.mktemp("local")) as made:
        yield made


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_controller("docker", tmp_path_factory.mktemp("docker")) as made:
        yield made
