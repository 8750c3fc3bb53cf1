"""`venvd up` and `venvd down`: the controller's own program, for this home."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import venvd
from venvd import launch, private, processes
from venvd.cli.command import Command, State, pass_state
from venvd.home import home, read

DEFAULT_PORT = 8600


def _pid_file() -> Path:
    return private.kept_file(home())


def _running() -> str | None:
    """The URL of this home's controller, if it answers."""
    url = read(home() / "url")
    if url is None:
        return None
    with venvd.Controller(url) as controller:
        return url if controller.alive() else None


@click.command("up", cls=Command)
@click.option("--detach", is_flag=True, help="Leave it running in the background, once it is ready.")
@click.option("--host", envvar="VENVD_HOST", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", envvar="VENVD_PORT", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@pass_state
def up(state: State, detach: bool, host: str, port: int) -> None:
    """Start a controller with the state of VENVD_HOME, and the manifest of this directory where there is one."""
    url = _running()
    if url is not None:
        _check_port(url, port)
        private.keep()
        shown = {"url": url, "pid": processes.recorded(_pid_file()), "home": str(home())}
        state.show(shown, f"a controller already answers at {url}")
        _tell_of_another(state, url)
        return
    if detach:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; `venvd down` stops it")
    else:
        _attend(state, host, port)


def _tell_of_another(state: State, url: str) -> None:
    """VENVD_URL serves the controller too: the address that it announces to clients."""
    other = os.environ.get("VENVD_URL")
    if other and other.rstrip("/") != url.rstrip("/"):
        state.say(f"VENVD_URL is {other}: commands go there; unset it and VENVD_TOKEN first where that is another one")


def _check_port(url: str, port: int) -> None:
    """Raises `Conflict` where the home's controller runs, but on another port than was asked for."""
    asked = click.get_current_context().get_parameter_source("port") is not ParameterSource.DEFAULT
    running = urlsplit(url).port
    if asked and running not in {None, port}:
        raise venvd.Conflict(
            f"the controller of {home()} runs already, at {url} and not on port {port}: `venvd down` stops it first; "
            "another beside it needs a home of its own (VENVD_HOME)"
        )


def _start(state: State, host: str, port: int) -> launch.Started:
    started = launch.start(home(), host=host, port=port, directory=Path.cwd())
    pid = started.process.pid
    processes.record(_pid_file(), pid)
    state.show({"url": started.url, "pid": pid, "home": str(home())}, f"the controller is ready at {started.url}")
    _tell_of_another(state, started.url)
    return started


def _attend(state: State, host: str, port: int) -> None:
    """Start a controller and stay until it ends; Ctrl-C and SIGTERM end it in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        started = _start(state, host, port)
        state.say(f"its log: {started.log}; Ctrl-C stops it")
        status = started.process.wait()
    except KeyboardInterrupt:
        processes.stop(_pid_file())
        return
    raise click.ClickException(f"the controller ended with status {status}; its log: {started.log}")


@click.command("down", cls=Command)
@pass_state
def down(state: State) -> None:
    """Stop the controller that `up` started for VENVD_HOME; backends run on and are found again by the next `up`."""
    pid = processes.stop(_pid_file())
    if pid is None:
        state.show({"stopped": False}, f"no controller that `venvd up` started runs for {home()}")
    else:
        state.show({"stopped": True, "pid": pid}, "the controller is stopped")
