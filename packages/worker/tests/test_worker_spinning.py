"""Spins of sessions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.internal.slots import SIZE
from venvd_worker.session import spinning
from venvd_worker.session.slot import Slot
from venvd_worker.session.spinning import SessionSpinner

CALLS = 2000


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of pytest do not count."""
    monkeypatch.setattr(spinning, "count_threads", lambda: 0)


def make_spinner(memory: bytearray, index: int, most: int) -> SessionSpinner:
    return SessionSpinner(list, 50, Slot(memory, index), most)


@pytest.mark.usefixtures("_alone")
def test_no_more_sessions_spin_than_may() -> None:
    """A session spins only while fewer others do, and makes room when its spins end."""
    memory = bytearray(3 * SIZE)
    first, second, third = (make_spinner(memory, index, 2) for index in range(3))
    assert first.begin()
    assert first.begin()
    assert second.begin()
    assert not third.begin()
    first.stop()
    assert third.begin()
    assert not first.begin()


def test_a_session_on_one_core_never_spins() -> None:
    """Where no core is left beside that of its client, a session has no waits that spin."""
    assert make_spinner(bytearray(SIZE), 0, 0).skips < 0


def test_a_session_with_threads_does_not_spin() -> None:
    """Threads of user code need the interpreter, which a spin would take from them."""
    spinner = make_spinner(bytearray(SIZE), 0, 1)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert not spinner.begin()
    finally:
        end.set()
        thread.join()


def test_a_session_without_calls_sleeps(session: Any, tools: Any) -> None:
    """After many fast calls, a session without further ones sleeps, and lets others spin."""
    for _ in range(CALLS):
        session.eval("1")
    tools.wait_for(lambda: not session.slot.spins and read_state(session.pid) == "S")


def read_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
