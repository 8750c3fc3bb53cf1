"""`venvd backend …`, and the short words start, stop, restart and logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import venvd
from venvd.cli.command import Group, State, fields, names, pass_state, table
from venvd.cli.progress import Progress, wait
from venvd.cli.venv import pairs
from venvd_contract.resources import BACKEND_TYPES, Backend, BackendLimits, LogLine, VenvSpec

DEFAULT_VENV = "default"


@click.group(cls=Group)
def backend() -> None:
    """Backends: running services."""


def rows(backends: Sequence[Backend]) -> str:
    shown = [(item.name, item.type, item.venv, item.state, item.url) for item in backends]
    return table(("name", "type", "venv", "state", "url"), shown)


def details(found: Backend) -> str:
    return fields(
        [
            ("name", found.name),
            ("type", found.type),
            ("state", found.state),
            ("url", found.url),
            ("token", found.token),
            ("venv", found.venv),
            ("python", found.python),
            ("engine", found.engine),
            ("started", found.startedAt),
            ("restarts", found.restarts or None),
            ("error", found.error),
        ]
    )


def chosen(state: State, name: str | None) -> str:
    """The backend that is meant: the one named, or the only one, apart from those that never came to run."""
    if name is not None:
        return name
    listed = state.controller.backends.list()
    if not listed:
        raise venvd.NotFound("no backend runs: `venvd start http` starts one")
    found = [item for item in listed if item.state != "failed"] or listed
    if len(found) > 1:
        option = any(item.name == "backend" for item in click.get_current_context().command.params)
        how = "--backend NAME" if option else "NAME"
        raise click.UsageError(f"which backend? {how} is one of {', '.join(item.name for item in found)}")
    return found[0].name


def _venv(state: State, name: str | None, provider: str | None, model: str | None) -> str:
    """The venv to start from, ready: the one named, a provider's, or `default`, made where it is absent."""
    if provider is not None:
        change = state.controller.ensure_provider(provider, model)
        wait(state, change.operation)
        return change.venv.name
    if name is not None:
        return name
    try:
        return state.controller.venvs.get(DEFAULT_VENV).name
    except venvd.NotFound:
        state.controller.runtimes.ensure(None, Progress())
        wait(state, state.controller.venvs.put(DEFAULT_VENV, VenvSpec()).operation)
        return DEFAULT_VENV


@backend.command("start")
@click.argument("type", type=click.Choice(BACKEND_TYPES))
@click.option(
    "--venv", "venv_name", shell_complete=names("venvs"), help="The venv; absent is `default`, made if absent."
)
@click.option("--name", help="The backend's name; absent is made from venv and type.")
@click.option("--host", help="The address to publish on; absent is the loopback.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port to publish on; absent is a free one.")
@click.option(
    "--socket-dir",
    "socketDir",
    metavar="DIR",
    help="The directory of a pipe's sockets, directly below the controller's run directory, by name or path.",
)
@click.option(
    "--network/--no-network",
    default=None,
    help="Whether user code may reach the network; absent is what the venv says.",
)
@click.option("--no-token", is_flag=True, help="Serve without a token, on the loopback or a socket only.")
@click.option("--memory", type=click.IntRange(1), metavar="BYTES", help="Memory of the worker host.")
@click.option("--cpus", type=click.FloatRange(0, min_open=True), help="CPUs of the worker host.")
@click.option("--processes", type=click.IntRange(1), help="Processes of the worker host.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable of user code; repeatable.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="For calls that name none.")
@click.option("--provider", help="Start from the venv of this provider.")
@click.option("--model", help="The provider's model.")
@click.option("--no-wait", is_flag=True, help="Return at once; the start goes on.")
@pass_state
def start(state: State, /, type: str, venv_name: str | None, no_wait: bool, **options: Any) -> None:  # noqa: A002
    """Start a backend of a TYPE: http, pipe or rpc."""
    provider, model = options.pop("provider"), options.pop("model")
    if venv_name and provider:
        raise click.UsageError("--venv and --provider exclude each other")
    if model and not provider:
        raise click.UsageError("--model needs --provider")
    limits = BackendLimits(options.pop("memory"), options.pop("cpus"), options.pop("processes"))
    token = not options.pop("no_token")
    env = pairs(options.pop("env"))
    venv_name = _venv(state, venv_name, provider, model)
    started = state.controller.backends.start(type, limits=limits, venv=venv_name, token=token, env=env, **options)
    if not no_wait:
        wait(state, started.operation)
    _show_started(state, started.backend if no_wait else state.controller.backends.get(started.backend.name))


def _show_started(state: State, made: Backend) -> None:
    shown = {name: getattr(made, name) for name in ("name", "type", "venv", "url", "token", "state")}
    state.show(shown, fields(list(shown.items())))


@backend.command("list")
@pass_state
def list_(state: State) -> None:
    """List the backends."""
    found = state.controller.backends.list()
    state.show(found, rows(found))


@backend.command("status")
@click.argument("name", required=False, shell_complete=names("backends"))
@pass_state
def status(state: State, name: str | None) -> None:
    """One backend; absent is the only one."""
    found = state.controller.backends.get(chosen(state, name))
    state.show(found, details(found))


@backend.command("stop")
@click.argument("name", required=False, shell_complete=names("backends"))
@pass_state
def stop(state: State, name: str | None) -> None:
    """Stop and remove a backend; absent is the only one."""
    name = chosen(state, name)
    state.controller.backends.delete(name)
    state.show({"name": name, "stopped": True}, f"{name} is stopped")


@backend.command("restart")
@click.argument("name", required=False, shell_complete=names("backends"))
@click.option("--no-wait", is_flag=True, help="Return at once; the restart goes on.")
@pass_state
def restart(state: State, name: str | None, no_wait: bool) -> None:
    """Restart a backend, on the same URL with the same token; its sessions begin afresh."""
    started = state.controller.backends.restart(chosen(state, name))
    if not no_wait:
        wait(state, started.operation)
    _show_started(state, started.backend if no_wait else state.controller.backends.get(started.backend.name))


def _log_text(line: LogLine) -> str:
    return f"{line.time} {line.source}: {line.text}"


@backend.command("logs")
@click.argument("name", required=False, shell_complete=names("backends"))
@click.option("-f", "--follow", is_flag=True, help="Go on with each line as it comes, over restarts too.")
@click.option("-n", "--tail", type=click.IntRange(0), help="Only the last lines.")
@pass_state
def logs(state: State, name: str | None, follow: bool, tail: int | None) -> None:
    """The log of a backend; absent is the only one."""
    name = chosen(state, name)
    if not follow:
        found = state.controller.backends.logs(name, tail)
        state.show(found, "\n".join(_log_text(line) for line in found) if found else None)
        return
    if state.json:
        raise click.UsageError("--follow has no end and --json is one array: use one of them")
    for line in state.controller.backends.follow_logs(name, tail):
        click.echo(_log_text(line))


@backend.command("metrics")
@click.argument("name", required=False, shell_complete=names("backends"))
@pass_state
def metrics(state: State, name: str | None) -> None:
    """What a backend measures, in Prometheus' text format."""
    name = chosen(state, name)
    text = state.controller.backends.metrics(name)
    state.show({"name": name, "metrics": text}, text.rstrip())
