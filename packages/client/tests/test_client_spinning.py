"""When a client that waits for an answer spins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from venvd._net import spinning
from venvd._net.pipes import make_pipes
from venvd._net.spinning import read_limit
from venvd.errors import InvalidRequest

ALONE = """
import threading
from venvd._net.spinning import ClientSpinner

spinner = ClientSpinner(list, 50)
print(spinner.begin())
for name in ("worker", "venvd-release"):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=name)
    thread.start()
    print(spinner.begin())
    end.set()
    thread.join()
    print(spinner.begin())
"""


def test_threads_keep_a_client_from_spinning() -> None:
    """A thread of the program needs the interpreter, which a spin would take from it; those of the SDK sleep."""
    printed = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["True", "False", "True", "True", "True"]


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client reads the microseconds of its spins from the environment; 0 is none."""
    monkeypatch.setattr(spinning, "count_cores", lambda: 2)
    assert read_limit() == 50
    monkeypatch.setenv("VENVD_SPIN_MICROSECONDS", "20")
    assert read_limit() == 20
    monkeypatch.setenv("VENVD_SPIN_MICROSECONDS", "0")
    assert read_limit() == 0


@pytest.mark.parametrize("given", ["fast", "-1", "1.5", "1000000"])
def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """What is no number of microseconds, or too many, is refused with what the variable takes."""
    monkeypatch.setenv("VENVD_SPIN_MICROSECONDS", given)
    with pytest.raises(InvalidRequest, match="microseconds from 0 to 1000"):
        read_limit()


def test_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that shares its one core with the session never spins."""
    monkeypatch.setattr(spinning, "count_cores", lambda: 1)
    assert read_limit() == 0


def test_a_pipe_shows_what_came() -> None:
    """A look at the pipe of replies does not wait, and shows an answer and the end of the session."""
    pipes, (requests, replies) = make_pipes()
    try:
        assert not pipes.look()
        os.write(replies, b"answer")
        assert pipes.look()
        assert pipes.recv(100) == b"answer"
        assert not pipes.look()
        os.close(replies)
        assert pipes.look()
    finally:
        pipes.close()
        os.close(requests)
