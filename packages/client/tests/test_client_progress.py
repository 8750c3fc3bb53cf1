"""What a program says while it waits for `venvd.backend()`."""

from __future__ import annotations

import inspect
import io

import pytest

import venvd
from venvd._backend_options import Options, plan_backend
from venvd._controller_api import ignore_event
from venvd._progress_line import ProgressLine
from venvd_contract.resources import Event


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line() -> None:
    """Each text takes the place of the one before, escapes are shown, and the end wipes the line."""
    terminal = _Terminal()
    show = ProgressLine(terminal)
    for kind, data in (("phase", "build"), ("log", "numpy \x1b[2J"), ("phase", "start"), ("done", None)):
        show(Event(1, kind, data))
    written = terminal.getvalue()
    assert written.startswith("\rvenvd: build …\rvenvd: build (0 s): numpy \\x1b[2J")
    assert "\n" not in written
    assert written.endswith(
        "\rvenvd: start …".ljust(len("venvd: build (0 s): numpy \\x1b[2J") + 1) + "\r" + " " * 14 + "\r"
    )


def test_only_who_watches_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets the line; a file gets nothing, and neither does a program with `on_event` of its own."""
    monkeypatch.setattr("sys.stderr", _Terminal())
    assert isinstance(plan_backend([], {}).on_event, ProgressLine)
    assert plan_backend([], {"on_event": ignore_event}).on_event is ignore_event
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert plan_backend([], {}).on_event is ignore_event


@pytest.mark.parametrize("function", [venvd.backend, venvd.backend_async])
def test_help_has_every_option(function: object) -> None:
    """`help(venvd.backend)` lists the options with what they mean."""
    text = inspect.getdoc(function) or ""
    for name in Options.__annotations__:
        assert f"\n    {name}: " in text
