"""`venvd backend …`, and the short words start, stop, restart and logs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import venvd
from venvd._cli import installed
from venvd._cli.command import Group, State, complete_names, fields, pass_state, shorten, table
from venvd._cli.launch_options import launch_options, take_launch_fields
from venvd._cli.moment import Duration, Moment
from venvd._cli.network import network_options
from venvd._cli.progress import Progress, wait
from venvd._cli.replicas import list_replicas, replica_options
from venvd._cli.terminal import write
from venvd._cli.venv import take_path
from venvd_contract.resources import (
    BACKEND_TYPES,
    LONGEST_OVERLAP,
    MOST_REPLICAS,
    ROTATION_OVERLAP,
    UPDATES,
    Backend,
    BackendStart,
    LogLine,
    VenvSpec,
    Walls,
)

DEFAULT_VENV = "default"
replica_option = click.option(
    "--replica", type=click.IntRange(0), default=0, metavar="NUMBER", help="Of this replica. Default: 0."
)


@click.group(cls=Group)
def backend() -> None:
    """Backends: running services."""


def rows(backends: Sequence[Backend]) -> str:
    headings = ["name", "type", "venv", "state", "url"]
    shown = [[item.name, item.type, item.venv, _describe_state(item), item.url] for item in backends]
    for heading, field in (("http url", "httpUrl"), ("error", "error")):
        if any(getattr(item, field) for item in backends):
            headings.append(heading)
            shown = [[*row, shorten(getattr(item, field))] for row, item in zip(shown, backends, strict=True)]
    return table(headings, shown) + describe_outdated(backends)


def _describe_state(info: Backend) -> str:
    return info.state + (", updating" if info.updating else ", outdated" if info.outdated else "")


def describe_outdated(backends: Sequence[Backend]) -> str:
    """Return a line that says which backends to restart, or nothing. Backends under update need no restart."""
    names = [item.name for item in backends if item.outdated and not item.updating]
    if not names:
        return ""
    return (
        f"\noutdated (an older build of the venv, or an older server): {', '.join(names)}; "
        f"`venvd restart NAME` gives a backend the newest, and its sessions start anew"
    )


def details(info: Backend) -> str:
    described = fields(
        [
            ("name", info.name),
            ("type", info.type),
            ("state", _describe_state(info)),
            ("url", info.url),
            ("http url", info.httpUrl),
            ("pipe name", info.spec.pipeName),
            ("token", info.token),
            ("venv", info.venv),
            ("python", info.python),
            ("engine", info.engine),
            ("OCI runtime", info.spec.ociRuntime if info.walls is None else info.walls.ociRuntime),
            ("walls", info.walls and describe_walls(info.walls)),
            ("started", info.startedAt),
            ("restarts", info.restarts or None),
            ("error", info.error),
        ]
    )
    return described + list_replicas(info.replicas) + describe_outdated([info])


def describe_walls(walls: Walls) -> str:
    """Describe the walls between the sessions of a backend, and the kernel on which they run."""
    files = f"Landlock {walls.landlock}" if walls.landlock else "namespaces" if walls.namespaces else "no Landlock"
    sockets = "with" if walls.networkSockets else "without"
    calls = f"system calls filtered, {sockets} network sockets" if walls.callFilter else "system calls not filtered"
    return ", ".join([files, calls, *([f"kernel {walls.kernel}"] if walls.kernel else [])])


def choose_backend(state: State, name: str | None) -> str:
    """Return the given name, or else the name of the only backend that did not fail to start."""
    if name is not None:
        return name
    listed = state.controller.backends.list()
    if not listed:
        raise venvd.NotFound("no backend runs: start one with `venvd start http`")
    usable = [item for item in listed if item.state != "failed"] or listed
    if len(usable) > 1:
        option = any(item.name == "backend" for item in click.get_current_context().command.params)
        how = "--backend NAME" if option else "NAME"
        raise click.UsageError(f"which backend? {how} is one of {', '.join(item.name for item in usable)}")
    return usable[0].name


def _ask_for_backend(state: State) -> str:
    """Return the name of the only backend. If several run, ask for one at a terminal."""
    listed = state.controller.backends.list()
    if len(listed) < 2 or state.json or not sys.stdin.isatty():
        return choose_backend(state, None)
    state.say(rows(listed))
    choice = click.Choice([item.name for item in listed])
    return str(click.prompt("Which backend?", type=choice, show_choices=False, err=True))


def _ensure_venv(state: State, name: str | None, provider: str | None, model: str | None) -> str:
    """Return the name of the venv, once it is ready: the given one, a provider's, or else `default`."""
    if provider is not None:
        change = state.controller.ensure_provider(provider, model)
        wait(state, change.operation)
        return change.venv.name
    if name is not None:
        return take_path(state, Path(name)) if installed.is_path(name) else name
    try:
        return state.controller.venvs.get(DEFAULT_VENV).name
    except venvd.NotFound:
        state.controller.runtimes.ensure(None, Progress())
        wait(state, state.controller.venvs.put(DEFAULT_VENV, VenvSpec()).operation)
        return DEFAULT_VENV


_TYPE = click.Choice(BACKEND_TYPES, case_sensitive=False)


def _complete_type(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _TYPE.shell_complete(context, parameter, incomplete)


def _parse_words(words: Sequence[str], type_: str | None) -> tuple[str, str | None, int | None]:
    """Return the type, the venv and the port that the words of `start` name: TYPE, then VENV or PORT."""
    rest = list(words)
    if type_ is None:
        if not rest:
            raise click.UsageError(f"which type? TYPE is one of {', '.join(BACKEND_TYPES)}")
        named = rest.pop(0)
        type_ = _TYPE.convert("rpc" if named.lower() == "grpc" else named, None, click.get_current_context())
    if len(rest) > 1:
        raise click.UsageError(f'"{rest[1]}" is one word too many: after the TYPE comes one VENV or PORT')
    word = rest[0] if rest else None
    if word is None or not word.isdecimal():
        return type_, word, None
    return type_, None, click.IntRange(1, 65535).convert(int(word), None, click.get_current_context())


@backend.command("start")
@click.argument("words", nargs=-1, metavar="TYPE [VENV|PORT]", shell_complete=_complete_type)
@click.option("--backend", "old_type", type=_TYPE, help="The old word for the TYPE, in any case, such as Http.")
@click.option(
    "--venv",
    "venv_name",
    shell_complete=complete_names("venvs"),
    help="The venv, or the absolute path of a virtual environment. Default: `default`, made if it does not exist.",
)
@click.option("--name", help="The backend's name. Default: made from venv and type.")
@click.option("--host", help="The address to publish on. Default: the loopback address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port to publish on. Default: a free port.")
@click.option(
    "--http-port",
    "httpPort",
    type=click.IntRange(1, 65535),
    help="The port of /health, /metrics and /rpc/… of a backend of type rpc. Default: a free port.",
)
@click.option(
    "--socket-dir",
    "socketDir",
    metavar="DIR",
    help="Name or path of the directory for a pipe's sockets, directly below the controller's run directory.",
)
@click.option(
    "--pipe-name",
    "pipeName",
    metavar="NAME",
    help="A name by which .NET also finds the pipe: clients of the older host use beep-python-pipe.",
)
@network_options("Default: the venv's setting.")
@launch_options
@click.option(
    "--ttl", type=Duration(), help="Remove it this long after its creation: 90s, 10m, 2h or 1d. Default: never."
)
@click.option(
    "--allow-host",
    "allowedHosts",
    multiple=True,
    metavar="HOST",
    help="A name under which browsers may reach a backend without a token; *.example.com is any below. Repeatable.",
)
@click.option(
    "--allow-origin",
    "allowedOrigins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page that may send requests, such as https://app.example.com. Repeatable.",
)
@click.option(
    "--update",
    type=click.Choice(UPDATES),
    help="rolling: replace its launches after a new build of its venv or an upgrade of venvd. Default: manual.",
)
@click.option(
    "--manages",
    multiple=True,
    metavar="PATTERN",
    help="A venv that sessions may manage with `import venvd_host`; * stands for any text. For admins. Repeatable.",
)
@replica_options
@click.option("--provider", help="Start from the venv of this provider.")
@click.option("--model", help="The provider's model.")
@click.option("--no-wait", is_flag=True, help="Return at once. The start keeps running.")
@pass_state
def start(
    state: State, /, words: Sequence[str], old_type: str | None, venv_name: str | None, no_wait: bool, **options: Any
) -> None:
    """Start a backend of a TYPE: http, pipe or rpc, also grpc. A number after it is the port, another word the venv."""
    backend_type, venv_word, port_word = _parse_words(words, old_type)
    if (venv_word and venv_name) or (port_word and options["port"]):
        raise click.UsageError(f'"{words[-1]}" and the option for it exclude each other')
    venv_name, options["port"] = venv_name or venv_word, options["port"] or port_word
    provider, model = options.pop("provider"), options.pop("model")
    if venv_name and provider:
        raise click.UsageError("a venv and --provider exclude each other")
    if model and not provider:
        raise click.UsageError("--model needs --provider")
    take_launch_fields(options)
    options |= {name: list(options[name]) for name in ("manages", "allowedHosts", "allowedOrigins")}
    venv_name = _ensure_venv(state, venv_name, provider, model)
    started = state.controller.backends.start(backend_type, venv=venv_name, **options)
    _await_and_show(state, started, no_wait=no_wait)
    _warn_of_another(state, started.backend)
    if options["token"] and (options["httpPort"] or options["pipeName"]):
        state.say("clients of the older .NET host send no token, and their calls fail: for them, use --no-token")
    _warn_of_managing(state, started.backend)


def _warn_of_another(state: State, started: Backend) -> None:
    """Warn that a backend with the usual name exists, so that the new one has another name."""
    usual = f"{started.venv}-{started.type}"
    if started.spec.name is None and started.name != usual:
        state.say(
            f'warning: the backend "{usual}" exists already, so the new one is called "{started.name}"; '
            f"`venvd stop {started.name}` ends it, and `venvd restart {usual}` restarts the other"
        )


def _warn_of_managing(state: State, backend: Backend) -> None:
    """Warn of the venvs that callers of a backend may manage."""
    if backend.spec.manages:
        names = ", ".join(backend.spec.manages)
        state.say(f"warning: each caller of {backend.name} may make, change, use and delete the venvs {names}")


def _await_and_show(state: State, started: BackendStart, *, no_wait: bool) -> None:
    """Wait for a start, unless `no_wait` is true, and show the backend."""
    if not no_wait:
        wait(state, started.operation)
    _show_started(state, started.backend if no_wait else state.controller.backends.get(started.backend.name))


def _show_started(state: State, started: Backend) -> None:
    shown = {name: getattr(started, name) for name in ("name", "type", "venv", "url", "httpUrl", "token", "state")}
    state.show(shown, fields(list(shown.items())))


@backend.command("list")
@pass_state
def list_(state: State) -> None:
    """List the backends."""
    listed = state.controller.backends.list()
    state.show(listed, rows(listed))


@backend.command("status")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@pass_state
def status(state: State, name: str | None) -> None:
    """Show one backend. Default: the only one."""
    info = state.controller.backends.get(choose_backend(state, name))
    state.show(info, details(info))
    _warn_of_managing(state, info)


@backend.command("stop")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@click.option(
    "--until-changed", is_flag=True, help="Also stop a backend that a manifest declares, until the manifest changes."
)
@pass_state
def stop(state: State, name: str | None, until_changed: bool) -> None:
    """Stop and remove a backend. Default: the only one. If several run, venvd asks at a terminal."""
    name = _ask_for_backend(state) if name is None else name
    state.controller.backends.delete(name, until_changed=until_changed)
    state.show({"name": name, "stopped": True}, f"{name} is stopped")


@backend.command("restart")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@click.option("--no-wait", is_flag=True, help="Return at once. The restart keeps running.")
@pass_state
def restart(state: State, name: str | None, no_wait: bool) -> None:
    """Restart a backend. It keeps its URL and token; its sessions start again without their state."""
    started = state.controller.backends.restart(choose_backend(state, name))
    _await_and_show(state, started, no_wait=no_wait)


@backend.command("rollback")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@click.option("--no-wait", is_flag=True, help="Return at once. The update goes on.")
@pass_state
def rollback(state: State, name: str | None, no_wait: bool) -> None:
    """Return a backend to the build of its venv that it ran before. It changes when a launch of that build is ready.

    `venvd restart` takes the newest again.
    """
    _await_and_show(state, state.controller.backends.rollback(choose_backend(state, name)), no_wait=no_wait)


@backend.command("scale")
@click.argument("words", nargs=-1, required=True, metavar="[NAME] REPLICAS")
@click.option("--no-wait", is_flag=True, help="Return at once. The new replicas start in the background.")
@pass_state
def scale(state: State, words: Sequence[str], no_wait: bool) -> None:
    """Change the number of replicas of a backend while it runs. One that is removed ends after its sessions."""
    *names, number = words
    if len(names) > 1:
        raise click.UsageError(f'"{names[1]}" is one word too many: write the NAME, then the number of REPLICAS')
    if not number.isdecimal():
        raise click.UsageError(f'"{number}" is no number of REPLICAS: the last word is 1 to {MOST_REPLICAS}')
    count = click.IntRange(1, MOST_REPLICAS).convert(int(number), None, click.get_current_context())
    name = choose_backend(state, names[0] if names else None)
    started = state.controller.backends.scale(name, count)
    if not no_wait:
        wait(state, started.operation)
    info = started.backend if no_wait else state.controller.backends.get(name)
    state.show(info, details(info))


@backend.command("token")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@click.option("--rotate", is_flag=True, help="Give the backend a new token. It needs no restart.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, LONGEST_OVERLAP),
    metavar="SECONDS",
    help=f"How long earlier tokens stay valid. Default: {ROTATION_OVERLAP:g}. Needs --rotate.",
)
@pass_state
def token(state: State, name: str | None, rotate: bool, overlap: float | None) -> None:
    """Show the token of a backend, or rotate it. Default: the only backend. For operators."""
    if overlap is not None and not rotate:
        raise click.UsageError("--overlap needs --rotate")
    name = choose_backend(state, name)
    if not rotate:
        shown = state.controller.backends.get(name).token
        if shown is None:
            raise venvd.NotFound(f'the backend "{name}" shows no token: it has none, or yours is not an operator\'s')
        state.show({"backend": name, "token": shown}, shown)
        return
    rotated = state.controller.backends.rotate_token(name, ROTATION_OVERLAP if overlap is None else overlap)
    state.show(rotated, fields([("token", rotated.token), ("previous ends", rotated.previousEndsAt)]))


def _format_line(line: LogLine) -> str:
    return f"{line.time} {line.source}: {line.text}"


@backend.command("logs")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come, across restarts.")
@click.option("-n", "--tail", type=click.IntRange(0), help="Print only this many last lines.")
@click.option(
    "--since",
    type=Moment(),
    help="Print no older lines: a time (RFC 3339), or how long ago, such as 90s, 10m, 2h or 1d.",
)
@replica_option
@pass_state
def logs(state: State, name: str | None, follow: bool, tail: int | None, since: str | None, replica: int) -> None:
    """Print the log of a backend. Default: the only one."""
    name = choose_backend(state, name)
    if not follow:
        lines = state.controller.backends.logs(name, tail, since, replica=replica)
        state.show(lines, "\n".join(_format_line(line) for line in lines) if lines else None)
        return
    if state.json:
        raise click.UsageError("--follow has no end and --json prints one array: use only one of them")
    for line in state.controller.backends.follow_logs(name, tail, since, replica=replica):
        write(_format_line(line))


@backend.command("metrics")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@replica_option
@pass_state
def metrics(state: State, name: str | None, replica: int) -> None:
    """Print a backend's metrics in Prometheus' text format. Default: the only backend."""
    name = choose_backend(state, name)
    text = state.controller.backends.metrics(name, replica=replica)
    state.show({"name": name, "metrics": text}, text.rstrip())
