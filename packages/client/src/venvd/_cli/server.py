"""`venvd up` and `venvd down`: start and stop the controller of this home."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import venvd
from venvd import _controller_process, _on_demand_controller, _pid_file
from venvd._cli.command import Command, State, pass_state
from venvd._home import home_directory, read_line

DEFAULT_PORT = 8600


def _find_pid_file() -> Path:
    return _on_demand_controller.find_kept_pid_file(home_directory())


def _find_running() -> str | None:
    """Return the URL of this home's controller if it answers."""
    url = read_line(home_directory() / "url")
    if url is None:
        return None
    with venvd.Controller(url) as controller:
        return url if controller.alive() else None


@click.command("up", cls=Command)
@click.option("--detach", is_flag=True, help="Return when it is ready; it keeps running in the background.")
@click.option("--host", envvar="VENVD_HOST", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", envvar="VENVD_PORT", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@pass_state
def up(state: State, detach: bool, host: str, port: int) -> None:
    """Start a controller with the state of VENVD_HOME, and the manifest of this directory if there is one."""
    url = _find_running()
    if url is not None:
        _check_port(url, port)
        _on_demand_controller.keep_running()
        shown = {"url": url, "pid": _pid_file.read_running(_find_pid_file()), "home": str(home_directory())}
        state.show(shown, f"a controller already answers at {url}")
        _warn_of_other_url(state, url)
        return
    if detach:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; `venvd down` stops it")
    else:
        _run_in_foreground(state, host, port)


def _warn_of_other_url(state: State, url: str) -> None:
    """Warn if VENVD_URL names another address, which may be another controller or this one's published address."""
    other = os.environ.get("VENVD_URL")
    if other and other.rstrip("/") != url.rstrip("/"):
        state.say(
            f"VENVD_URL is {other}, and commands go there; "
            "if that is another controller, unset VENVD_URL and VENVD_TOKEN first"
        )


def _check_port(url: str, port: int) -> None:
    """Raise `Conflict` if the home's controller runs on another port than the requested one."""
    is_given = click.get_current_context().get_parameter_source("port") is not ParameterSource.DEFAULT
    running = urlsplit(url).port
    if is_given and running not in {None, port}:
        raise venvd.Conflict(
            f"the controller of {home_directory()} runs already, at {url} and not on port {port}: "
            "stop it with `venvd down`; a second controller needs a home of its own (VENVD_HOME)"
        )


def _start(state: State, host: str, port: int) -> _controller_process.StartedController:
    started = _controller_process.start(home_directory(), host=host, port=port, directory=Path.cwd())
    pid = started.process.pid
    _pid_file.write(_find_pid_file(), pid)
    state.show(
        {"url": started.url, "pid": pid, "home": str(home_directory())}, f"the controller is ready at {started.url}"
    )
    _describe_choices(state, started)
    _warn_of_other_url(state, started.url)
    return started


def _describe_choices(state: State, started: _controller_process.StartedController) -> None:
    """Print what the controller chose by itself: its engine with the reason and the gaps, and its manifest."""
    with venvd.Controller(started.url, started.token) as controller:
        status = controller.status()
    state.say(f"engine {status.engine}: {status.engineReason}")
    for gap in status.gaps if status.engine == "local" else ():
        state.say(f"  {gap}")
    if status.manifest is not None:
        state.say(f"manifest {status.manifest}: the controller starts what it declares")


def _run_in_foreground(state: State, host: str, port: int) -> None:
    """Start a controller and wait until it ends. Ctrl-C and SIGTERM end it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; Ctrl-C stops it")
        status = started.process.wait()
    except KeyboardInterrupt:
        _pid_file.stop(_find_pid_file())
        return
    raise click.ClickException(f"the controller ended with status {status}; its log: {started.log}")


@click.command("down", cls=Command)
@pass_state
def down(state: State) -> None:
    """Stop the controller that `up` started for VENVD_HOME. Backends keep running, and the next `up` finds them."""
    pid = _pid_file.stop(_find_pid_file())
    if pid is None:
        state.show({"stopped": False}, f"`venvd up` has started no controller for {home_directory()}")
    else:
        state.show({"stopped": True, "pid": pid}, "the controller is stopped")
