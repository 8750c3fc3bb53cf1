"""The program `venvd`: its groups, its short words, its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class

from venvd._cli import (
    audit,
    backend,
    backup,
    code,
    files,
    interactive,
    key,
    manifest,
    operation,
    runtime,
    secret,
    server,
    venv,
)
from venvd._cli.command import State, complete_names, fields, pass_state, table
from venvd._cli.running import DONE, FAILED, App, run_words
from venvd._cli.terminal import write
from venvd_contract.resources import Leftover, Setting


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--url", help="The controller's URL. Default: VENVD_URL, else the controller of VENVD_HOME.")
@click.option(
    "--controller-token", "token", help="The controller's token. Default: VENVD_TOKEN, else the token in VENVD_HOME."
)
@click.version_option(package_name="venvd", message="%(prog)s %(version)s")
@pass_state
def app(state: State, url: str | None, token: str | None) -> None:
    """Python services from a version and a requirements list.

    Exit codes: 0 done, 1 failed, 2 usage error, 3 not found, 4 no controller.
    """
    state.url, state.token = url or state.url, token or state.token


for group in (runtime.runtime, venv.venv, backend.backend, operation.operation, venv.providers, files.files):
    app.add_command(group)
for group in (key.key, secret.secret):
    app.add_command(group)
backend.backend.add_command(manifest.manifest)
for command in (backend.start, backend.stop, backend.restart, backend.scale, backend.logs):
    app.add_command(command)
for command in (audit.audit, runtime.init, code.eval_, code.exec_, server.up, server.down):
    app.add_command(command)
for command in (interactive.console, interactive.shell, backup.backup, backup.restore):
    app.add_command(command)


@app.command("status")
@click.argument("name", required=False, shell_complete=complete_names("backends"))
@pass_state
def status(state: State, name: str | None) -> None:
    """Show what runs, or with NAME one backend."""
    if name is not None:
        info = state.controller.backends.get(name)
        state.show(info, backend.details(info))
        return
    summary = state.controller.status()
    pairs = [
        ("controller", f"{state.controller.url} (version {summary.version})"),
        ("engine", f"{summary.engine}: {summary.engineReason}"),
        ("home", summary.home),
        ("manifest", summary.manifest),
        ("runtimes", summary.runtimes),
        ("venvs", summary.venvs),
        ("backends", _format_counts(summary.backends)),
        ("operations", _format_counts(summary.operations)),
    ]
    state.show(summary, fields(pairs) + backend.describe_outdated(state.controller.backends.list()))


def _format_counts(by_state: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in by_state.items() if count) or "none"


@app.command("list")
@pass_state
def list_(state: State) -> None:
    """List runtimes, venvs and backends."""
    controller = state.controller
    runtimes, venvs, backends = controller.runtimes.list(), controller.venvs.list(), controller.backends.list()
    text = "\n\n".join(
        f"{title}\n{rows}"
        for title, rows in (
            ("Runtimes", runtime.rows(runtimes)),
            ("Venvs", venv.rows(venvs)),
            ("Backends", backend.rows(backends)),
        )
    )
    state.show({"runtimes": runtimes, "venvs": venvs, "backends": backends}, text)


@app.command("config")
@pass_state
def config(state: State) -> int:
    """Show every setting and its source, and what is unsafe, unguarded or broken.

    Exits with 1 if something is broken. Change a setting or a specification to end what is unsafe. What is unguarded is
    a limit of the engine or of this machine.
    """
    report = state.controller.config()
    settings = [
        (item.name, item.value, _source(item), (item.description or "").rstrip(".")) for item in report.settings
    ]
    state.show(report, table(("setting", "value", "source", "meaning"), settings))
    lists = (("unsafe", report.unsafe, "yellow"), ("unguarded", report.gaps, None), ("broken", report.missing, "red"))
    for word, named, colour in lists:
        for each in named if not state.json else ():
            write(f"{word}: {each}", fg=colour)
    return FAILED if report.missing else DONE


def _source(item: Setting) -> str:
    return item.source if item.variable in {None, item.name} else f"{item.source}: {item.variable}"


@app.command("prune")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also remove what venvd would make again: caches, tools, current server images.",
)
@click.option("--dry-run", is_flag=True, help="Only list the leftovers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_state
def prune(state: State, everything: bool, dry_run: bool, yes: bool) -> None:
    """Remove what this home keeps without using it: images of removed venvs, servers of old versions."""
    leftovers = state.controller.leftovers(everything=everything)
    if dry_run or not leftovers:
        state.show(
            {"leftovers" if dry_run else "removed": leftovers},
            _format_leftovers(leftovers) if leftovers else "there are no leftovers",
        )
        return
    if not yes:
        _confirm(state, leftovers)
    removed = state.controller.prune(everything=everything)
    state.show({"removed": removed}, f"removed:\n{_format_leftovers(removed)}")


def _confirm(state: State, leftovers: Sequence[Leftover]) -> None:
    if state.json or not sys.stdin.isatty():
        raise click.UsageError("without a terminal, give --yes to remove or --dry-run to list")
    state.say(_format_leftovers(leftovers))
    click.confirm("Remove all of this?", abort=True, err=True)


def _format_leftovers(leftovers: Sequence[Leftover]) -> str:
    sizes = ("" if item.sizeBytes is None else f"{item.sizeBytes / 1e6:.1f} MB" for item in leftovers)
    return table(
        ("kind", "size", "name"), [(item.kind, size, item.name) for item, size in zip(leftovers, sizes, strict=True)]
    )


@app.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_state
def completion(state: State, shell: str) -> None:
    """Print the completion script of a SHELL: eval "$(venvd completion bash)"."""
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.ClickException(f"there is no completion for {shell}")
    source = completion_class(app, {}, "venvd", "_VENVD_COMPLETE").source()
    state.show({"shell": shell, "script": source}, source)


def run() -> int:
    """Run the program on `sys.argv`, and return its exit code."""
    state = State()
    try:
        return run_words(app, sys.argv[1:], state)
    except BrokenPipeError:
        # The reader of our output has closed it. Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
