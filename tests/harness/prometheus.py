"""A real Prometheus on loopback, configured by the file that is shipped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from harness.controller import Controller
from harness.ports import free_port
from harness.stack import ROOT

MONITORING = ROOT / "deploy" / "monitoring"
Series = dict[str, Any]
"""One result of an instant query: `metric` with the labels, `value` with time and text."""


@functools.cache
def _programs() -> Path | None:
    cache = Path(os.environ.get("VENVD_CACHE") or Path.home() / ".cache" / "venvd") / "prometheus"
    for place in (*os.environ.get("PATH", "").split(":"), str(cache)):
        if all(shutil.which(name, path=place) for name in ("prometheus", "promtool")):
            return Path(place)
    return None


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where they are missing."""
    place = _programs()
    if place is None:
        pytest.skip("no prometheus and promtool: deploy/monitoring/fetch-prometheus brings them")
    return str(place / name)


def promtool(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *words], input=text, capture_output=True, text=True, check=False)


def shipped() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    return found


def config_for(controller: Controller, token_file: Path) -> dict[str, Any]:
    """The shipped configuration with this controller's address and token, and everything once a second."""
    text = json.dumps(shipped())
    text = text.replace("controller:8600", f"127.0.0.1:{controller.port}")
    found: dict[str, Any] = json.loads(text.replace("/run/venvd-monitoring/token", str(token_file)))
    found["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    found["rule_files"] = [str(MONITORING / name) for name in found["rule_files"]]
    for job in found["scrape_configs"]:
        for discovery in job.get("http_sd_configs", ()):
            discovery["refresh_interval"] = "1s"
    return found


class Prometheus:
    """One that listens on loopback, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def log(self) -> str:
        """What it said, where that is known."""
        return ""

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def api(self, path: str) -> Any:
        """The data of an answer; a question that Prometheus does not understand is an error."""
        found = json.loads(self.get(f"/api/v1/{path}")[1])
        assert found["status"] == "success", f"{path}: {found.get('error')}"
        return found["data"]

    def query(self, expression: str) -> list[Series]:
        found: list[Series] = self.api(f"query?query={quote(expression)}")["result"]
        return found

    def until(self, expression: str, seconds: float = 180) -> list[Series]:
        """The answer to an expression once there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.query(expression):
                return found
            time.sleep(0.25)
        state = json.dumps(self.api("targets?state=active"), indent=1)
        raise AssertionError(f"nothing for {expression} after {seconds} s\n{state}\n{self.log()}")

    def value(self, expression: str) -> float:
        """The one number that an expression comes to, once there is one."""
        (found,) = self.until(expression)
        return float(found["value"][1])


class PrometheusProcess(Prometheus):
    """One process, its data below `place`."""

    def __init__(self, place: Path, config: dict[str, Any]) -> None:
        super().__init__(free_port())
        self.place = place
        self.config = place / "prometheus.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> PrometheusProcess:
        command = [
            program("prometheus"),
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.place / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with (self.place / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.place)
        self._wait()
        return self

    def _wait(self) -> None:
        end = time.monotonic() + 180
        while time.monotonic() < end and self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.get("/-/ready")[0] == http.client.OK:
                    return
            time.sleep(0.05)
        raise AssertionError(f"Prometheus is not ready:\n{self.log()}")

    def log(self) -> str:
        path = self.place / "prometheus.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
