"""A controller and a Prometheus that runs before the first backend."""

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
class Monitored:
    """A controller, a Prometheus that scrapes it, and the name of a venv for backends."""

    controller: Controller
    prometheus: PrometheusProcess
    venv: str


@contextlib.contextmanager
def monitored_controller(engine: str, directory: Path) -> Iterator[Monitored]:
    program("prometheus")
    token = directory / "published" / "token"
    with running_controller(engine, VENVD_METRICS_TOKEN_FILE=str(token)) as controller:
        prometheus = PrometheusProcess(directory, config_for(controller, token))
        try:
            prometheus.start()
            prometheus.until('up{job="venvd-controller"} == 1')
            controller.venv("bare", python=f"3.{sys.version_info.minor}", preload=["json"])
            yield Monitored(controller, prometheus, "bare")
        finally:
            prometheus.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    with monitored_controller("local", tmp_path_factory.mktemp("local")) as monitored:
        yield monitored


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    with monitored_controller("docker", tmp_path_factory.mktemp("docker")) as monitored:
        yield monitored
