"""What every test needs to know of the machine, and what a failing run says last."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import PurePosixPath

import pytest
from harness.scheduling import FolderScheduling
from xdist.remote import Producer

# Hundreds of programs start in a run: without bytecode each of them would compile all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ENGINES = {"local", "docker", "kubernetes"}
WAYS = {"http", "pipe", "rpc", "attach", "pipe-shm", "attach-shm"}
SHORT = {
    "session": {"local": {"pipe"}, "docker": {"http"}, "kubernetes": {"http"}},
    "transport": {"local": WAYS, "docker": {"pipe", "pipe-shm"}, "kubernetes": {"http", "rpc"}},
    "everywhere": {"local": WAYS, "docker": WAYS, "kubernetes": WAYS},
    "controller": {"local": WAYS, "kubernetes": WAYS},
}
"""Where `make test` and `make test-kubernetes` run a test of a matrix of engines and transports, by what it is about.

What a session does is the same behind each transport. What a transport or a controller does is the same on each engine.
`make test-long` runs the other places.
"""
SLOWEST = (
    "tests/attacks",
    "tests/engines",
    "tests/e2e",
    "tests/page",
    "tests/docs",
    "packages/client",
    "tests/venvs",
    "packages/worker",
    "tests/wire",
    "tests/preload",
    "tests/compat",
    "tests/sdk",
    "tests/faults",
    "services/controller",
    "tests/monitoring",
    "tests/conformance",
    "tests/dotnet",
    "packages/engines",
    "tests/isolation",
    "tests/harm",
)
"""Suites that come first, by the time that a run spends in them: no worker is left with a long one at the end."""
NAMED = 5
"""Failures that the end of a run names; the summary above it has all of them."""


@functools.cache
def docker_answers() -> bool:
    if os.environ.get("VENVD_ENGINE") == "local":
        return False
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        about = item.get_closest_marker("about")
        if about is not None and not _short(item, about.args[0]):
            item.add_marker(pytest.mark.long)
        for needed in item.iter_markers("needs"):
            if shutil.which(needed.args[0]) is None:
                item.add_marker(pytest.mark.skip(reason=f"{needed.args[0]} is not installed"))
    items.sort(key=_rank)
    _skip_without_docker(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    return FolderScheduling(config, log)


def _rank(item: pytest.Item) -> int:
    path = item.path.relative_to(item.config.rootpath).as_posix()
    return next((rank for rank, suite in enumerate(SLOWEST) if path.startswith(suite)), len(SLOWEST))


def _short(item: pytest.Item, about: str) -> bool:
    """Whether `make test` runs this item of a matrix."""
    callspec = getattr(item, "callspec", None)
    places = set() if callspec is None else {value for value in callspec.params.values() if isinstance(value, str)}
    ways = SHORT[about]
    return all(engine in ways and places & WAYS <= ways[engine] for engine in places & ENGINES or {"local"})


def _skip_without_docker(items: list[pytest.Item]) -> None:
    """Skip what needs a Docker Engine where none answers; with CI=true that ends the run."""
    wanting = [item for item in items if item.get_closest_marker("docker")]
    if not wanting or docker_answers():
        return
    if os.environ.get("CI") == "true" and os.environ.get("VENVD_ENGINE") != "local":
        pytest.exit("CI=true, and no Docker Engine answers", returncode=1)
    for item in wanting:
        item.add_marker(pytest.mark.skip(reason="no Docker Engine answers (VENVD_ENGINE=local asks for none)"))


def _ci_skips_nothing() -> bool:
    """Whether a skip is a failure: in CI, unless it says that its machine cannot have everything."""
    wanted = os.environ.get("CI") == "true" and os.environ.get("VENVD_ENGINE") != "local"
    return wanted and os.environ.get("VENVD_CI_SKIPS") != "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a test that is skipped for what the machine lacks has failed; one that fails as expected has not."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _ci_skips_nothing():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI=true, where nothing is skipped. {reason}"
    return report


def _reports(config: pytest.Config, kinds: Iterable[str]) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats = {} if reporter is None else reporter.stats
    return [report for kind in kinds for report in stats.get(kind, ()) if isinstance(report, pytest.TestReport)]


def _time_suites(reports: Iterable[pytest.TestReport]) -> Counter[str]:
    """Count the seconds of each suite with its fixtures. A suite is a directory, or a module that stands in none."""
    seconds: Counter[str] = Counter()
    for report in reports:
        path = PurePosixPath(report.nodeid.partition("::")[0])
        seconds["/".join(path.parts[:2])] += report.duration
    return seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Figures that tests recorded with `record_property("figure", …)`, and with `--durations` the suites by time."""
    reports = _reports(config, list(terminalreporter.stats))
    if config.getoption("durations"):
        terminalreporter.section("seconds of each suite")
        for suite, seconds in _time_suites(reports).most_common(30):
            terminalreporter.write_line(f"{seconds:7.0f}  {suite}")
    figures = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(str(figure))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The last lines of a run that failed: what failed, and the command that runs it again."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    failed = list(dict.fromkeys(report.nodeid for report in _reports(config, ("failed", "error"))))
    if not failed:
        return
    reporter.write_line(f"{len(failed)} failed:", red=True)
    for node in failed[:NAMED]:
        reporter.write_line(f"  {node}")
    if len(failed) > NAMED:
        reporter.write_line(f"  and {len(failed) - NAMED} more, named above")
    again = "--last-failed" if len(failed) > 1 else shlex.quote(failed[0])
    reporter.write_line(f"to run {'them' if len(failed) > 1 else 'it'} again: .venv/bin/python -m pytest -x {again}")
