"""Runs of code in venvs: how long they wait, and how many there are at a time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.errors import Busy, DeadlineExceeded, Unavailable
from venvd_controller import venv_runs
from venvd_controller.forwarding import Forwarder
from venvd_controller.venv_runs import VenvRuns


def make_runs(state: str, error: str | None = None) -> VenvRuns:
    """Make the runs of a venv whose backend stays in one state."""
    backend = SimpleNamespace(venv="app", type="pipe", state=state, error=error)
    engine: Any = SimpleNamespace(capabilities=lambda: SimpleNamespace(sockets=True))
    backends: Any = SimpleNamespace(get=lambda _name: backend)
    venvs: Any = SimpleNamespace(get=lambda _name: None)
    return VenvRuns(engine, backends, venvs, Forwarder(backends))


@pytest.mark.parametrize("state", ["failed", "unhealthy", "stopping"])
def test_a_backend_that_does_not_start(state: str) -> None:
    """A run does not wait for a backend that has failed, and says why it did."""
    with pytest.raises(Unavailable, match=f'"run-app" is {state}: no memory'):
        make_runs(state, "no memory").run("app", "1", 1.0)


def test_a_backend_that_starts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a start has an end."""
    monkeypatch.setattr(venv_runs, "_START_SECONDS", 0.0)
    with pytest.raises(DeadlineExceeded, match="still starting"):
        make_runs("starting").run("app", "1", 1.0)


def test_runs_at_a_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further runs are refused at once, and taken again when one has ended."""
    runs = make_runs("running")
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait(_venv: str, _code: str, _timeout: float) -> dict[str, Any]:
        begun.release()
        go_on.wait(60)
        return {}

    monkeypatch.setattr(runs, "_run", wait)
    threads = [threading.Thread(target=runs.run, args=("app", "1", 1.0)) for _ in range(venv_runs._MOST_RUNS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=60)
    with pytest.raises(Busy):
        runs.run("app", "1", 1.0)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert runs.run("app", "1", 1.0) == {}
