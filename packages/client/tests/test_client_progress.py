"""What a program says while it waits for `venvd.backend()`."""

from __future__ import annotations

import contextlib
import http.server
import inspect
import io
import threading
from collections.abc import Iterator

import pytest

import venvd
from venvd._backend_options import Options, plan_backend
from venvd._cli.progress import FailedError
from venvd._controller_api import ignore_event
from venvd._progress_line import ProgressLine
from venvd_contract.resources import Event, OperationInfo


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (venvd.Unavailable("replica 1 is failed: no memory"), "venv.build of x failed: replica 1 is failed: no memory"),
        (venvd.Internal("venv.build of x failed"), "venv.build of x failed"),
        (venvd.Cancelled("venv.build of x was cancelled"), "venv.build of x was cancelled"),
        (
            venvd.Cancelled('the backend "x" is being removed'),
            'venv.build of x was cancelled: the backend "x" is being removed',
        ),
    ],
)
def test_the_reason_of_a_failure_is_told_once(error: venvd.VenvdError, told: str) -> None:
    """The reason stands behind what failed, unless it says no more than that."""
    operation = OperationInfo("1", "venv.build", "x", "failed", "2026-01-01T00:00:00Z")
    assert FailedError(operation, error).message == told


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Answers each request, and streams one line of a log without its end."""

    def do_GET(self) -> None:
        self.send_response(200 if "logs" in self.path else 404)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        line = b'{"time":"2026-01-01T00:00:00Z","source":"worker","stream":"stdout","text":"hi","replica":0}'
        self.wfile.write(b"event: log\nid: 1\ndata: " + line + b"\n\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


@contextlib.contextmanager
def _running_stranger() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_program_is_no_controller() -> None:
    """A program that answers at the address of a controller that ended is none."""
    with _running_stranger() as url, venvd.Controller(url) as controller:
        assert not controller.alive()


def test_a_log_that_ends_too_early_is_an_error() -> None:
    """A followed log that the controller ends without saying that the backend was removed has not ended well."""
    with _running_stranger() as url, venvd.Controller(url) as controller:
        lines = controller.backends.follow_logs("x")
        assert next(lines).text == "hi"
        with pytest.raises(venvd.Unavailable, match='the controller ended the log of "x"'):
            next(lines)


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
