"""What every test needs to know of the machine: whether a Docker Engine answers."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest


@functools.cache
def docker_answers() -> bool:
    if os.environ.get("VENVD_ENGINE") == "local":
        return False
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a Docker Engine where none answers; with CI=true that is a failure."""
    wanting = [item for item in items if item.get_closest_marker("docker")]
    if not wanting or docker_answers():
        return
    if os.environ.get("CI") == "true" and os.environ.get("VENVD_ENGINE") != "local":
        pytest.exit("CI=true, and no Docker Engine answers", returncode=1)
    for item in wanting:
        item.add_marker(pytest.mark.skip(reason="no Docker Engine answers (VENVD_ENGINE=local asks for none)"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Figures that tests recorded with `record_property("figure", …)`."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    called = [report for report in reports if getattr(report, "when", None) == "call"]
    figures = [value for report in called for name, value in report.user_properties if name == "figure"]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))
