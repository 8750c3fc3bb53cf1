"""A real Prometheus on loopback, configured by the file that is shipped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from harness.controller import Controller
from harness.ports import free_port
from harness.stack import ROOT
from harness.waiting import TIMEOUT, wait_until

MONITORING = ROOT / "deploy" / "monitoring"
Series = dict[str, Any]
"""One result of an instant query: `metric` with the labels, `value` with time and text."""


@functools.cache
def _find_programs() -> Path | None:
    cache = Path(os.environ.get("VENVD_CACHE") or Path.home() / ".cache" / "venvd") / "prometheus"
    for path in (*os.environ.get("PATH", "").split(":"), str(cache)):
        if all(shutil.which(name, path=path) for name in ("prometheus", "promtool")):
            return Path(path)
    return None


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test."""
    directory = _find_programs()
    if directory is None:
        pytest.skip("no prometheus and promtool: deploy/monitoring/fetch-prometheus brings them")
    return str(directory / name)


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], input=text, capture_output=True, text=True, check=False)


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    return config


def config_for(controller: Controller, token_file: Path) -> dict[str, Any]:
    """Return the shipped configuration with this controller's address and token, and intervals of a second."""
    text = json.dumps(shipped())
    text = text.replace("controller:8600", f"127.0.0.1:{controller.port}")
    config: dict[str, Any] = json.loads(text.replace("/run/venvd-monitoring/token", str(token_file)))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        for discovery in job.get("http_sd_configs", ()):
            discovery["refresh_interval"] = "1s"
    return config


class Prometheus:
    """A client of the HTTP API of a Prometheus on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def read_log(self) -> str:
        """Return its log if that is known."""
        return ""

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def api(self, path: str) -> Any:
        """Return the data of an answer; an invalid request is an error."""
        answer = json.loads(self.get(f"/api/v1/{path}")[1])
        assert answer["status"] == "success", f"{path}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str) -> list[Series]:
        result: list[Series] = self.api(f"query?query={quote(expression)}")["result"]
        return result

    def until(self, expression: str) -> list[Series]:
        """Wait until an expression has a result, and return that."""

        def describe() -> str:
            targets = json.dumps(self.api("targets?state=active"), indent=1)
            return f"no result of {expression}\n{targets}\n{self.read_log()}"

        result: list[Series] = wait_until(lambda: self.query(expression), describe)
        return result

    def value(self, expression: str) -> float:
        """Wait until an expression has a result, which is one series, and return its value."""
        (series,) = self.until(expression)
        return float(series["value"][1])


class PrometheusProcess(Prometheus):
    """A process with its data below `directory`."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(free_port())
        self.directory = directory
        self.config = directory / "prometheus.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrometheusProcess:
        command = [
            program("prometheus"),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with (self.directory / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        wait_until(self._is_ready, lambda: f"Prometheus is not ready:\n{self.read_log()}")
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"Prometheus ended:\n{self.read_log()}"
        with contextlib.suppress(OSError):
            return self.get("/-/ready")[0] == http.client.OK
        return False

    def read_log(self) -> str:
        path = self.directory / "prometheus.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
