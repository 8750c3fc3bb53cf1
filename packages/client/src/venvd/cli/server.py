"""`venvd up` and `venvd down`: the controller's own program, for this home."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import click

import venvd
from venvd import launch
from venvd.cli.command import Command, State, pass_state
from venvd.home import home, read

DEFAULT_PORT = 8600
_STOP_TIMEOUT = 30.0


def _pid_file() -> Path:
    return home() / "controller.pid"


def _born(pid: int) -> str | None:
    """When a process began, in clock ticks: with it a process ID names one process for good. None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _own() -> int | None:
    """The process ID of this home's controller, if it runs and was started by `up`."""
    words = (read(_pid_file()) or "").split()
    if len(words) != 2 or not words[0].isdecimal():
        return None
    return int(words[0]) if _born(int(words[0])) == words[1] else None


def _running() -> str | None:
    """The URL of this home's controller, if it answers."""
    url = read(home() / "url")
    if url is None:
        return None
    with venvd.Controller(url) as controller:
        return url if controller.alive() else None


@click.command("up", cls=Command)
@click.option("--detach", is_flag=True, help="Leave it running in the background, once it is ready.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@pass_state
def up(state: State, detach: bool, host: str, port: int) -> None:
    """Start a controller with the state of VENVD_HOME, and the manifest of this directory where there is one."""
    url = _running()
    if url is not None:
        state.show({"url": url, "pid": _own(), "home": str(home())}, f"a controller already answers at {url}")
        return
    if detach:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; `venvd down` stops it")
    else:
        _attend(state, host, port)


def _start(state: State, host: str, port: int) -> launch.Started:
    started = launch.start(home(), host=host, port=port, directory=Path.cwd())
    pid = started.process.pid
    _pid_file().write_text(f"{pid} {_born(pid)}\n", encoding="ascii")
    state.show({"url": started.url, "pid": pid, "home": str(home())}, f"the controller is ready at {started.url}")
    return started


def _attend(state: State, host: str, port: int) -> None:
    """Start a controller and stay until it ends; Ctrl-C and SIGTERM end it in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; Ctrl-C stops it")
        status = started.process.wait()
    except KeyboardInterrupt:
        _stop()
        return
    finally:
        _pid_file().unlink(missing_ok=True)
    raise click.ClickException(f"the controller ended with status {status}; its log: {started.log}")


@click.command("down", cls=Command)
@pass_state
def down(state: State) -> None:
    """Stop the controller that `up` started for VENVD_HOME; backends run on and are found again by the next `up`."""
    pid = _stop()
    if pid is None:
        state.show({"stopped": False}, f"no controller that `venvd up` started runs for {home()}")
    else:
        state.show({"stopped": True, "pid": pid}, "the controller is stopped")


def _stop() -> int | None:
    """End this home's controller, if `up` started it; its process ID."""
    pid = _own()
    if pid is None:
        return None
    born = _born(pid)
    _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while _born(pid) == born:
        if time.monotonic() > deadline:
            _signal(pid, signal.SIGKILL)
            deadline += _STOP_TIMEOUT
        time.sleep(0.05)
    _pid_file().unlink(missing_ok=True)
    return pid


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
