"""The program `venvd`: its groups, its short words, its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import get_completion_class

import venvd
from venvd.cli import backend, code, files, operation, runtime, server, venv
from venvd.cli.command import Group, State, fields, names, pass_state, table, wants_json
from venvd.cli.progress import FailedError
from venvd_contract.resources import Leftover, Setting

DONE, FAILED, WRONG_WORDS, NOT_FOUND, NO_CONTROLLER = range(5)


class App(Group):
    """The program's own group."""

    def invoke(self, ctx: click.Context) -> Any:
        """What the command returns; an error of ours becomes its exit code here.

        Click must not see it: one that code raised is also Python's (`EOFError`), which Click takes for Ctrl-D.
        """
        try:
            return super().invoke(ctx)
        except venvd.VenvdError as error:
            return _told(ctx.ensure_object(State), error)


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--url", help="The controller; absent is VENVD_URL, else the one of VENVD_HOME.")
@click.option("--controller-token", "token", help="Its token; absent is VENVD_TOKEN, else that of VENVD_HOME.")
@click.version_option(package_name="venvd", message="%(prog)s %(version)s")
@pass_state
def app(state: State, url: str | None, token: str | None) -> None:
    """Python services from a version and a requirements list.

    Exit codes: 0 done, 1 failed, 2 wrong words, 3 not found, 4 no controller.
    """
    state.url, state.token = url, token


for group in (runtime.runtime, venv.venv, backend.backend, operation.operation, venv.providers, files.files):
    app.add_command(group)
for command in (backend.start, backend.stop, backend.restart, backend.logs):
    app.add_command(command)
for command in (runtime.init, code.eval_, code.exec_, server.up, server.down):
    app.add_command(command)


@app.command("status")
@click.argument("name", required=False, shell_complete=names("backends"))
@pass_state
def status(state: State, name: str | None) -> None:
    """What runs; with NAME, one backend."""
    if name is not None:
        one = state.controller.backends.get(name)
        state.show(one, backend.details(one))
        return
    found = state.controller.status()
    pairs = [
        ("controller", f"{state.controller.url} (version {found.version})"),
        ("engine", f"{found.engine}: {found.engineReason}"),
        ("home", found.home),
        ("runtimes", found.runtimes),
        ("venvs", found.venvs),
        ("backends", _counts(found.backends)),
        ("operations", _counts(found.operations)),
    ]
    state.show(found, fields(pairs))


def _counts(by_state: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in by_state.items() if count) or "none"


@app.command("list")
@pass_state
def list_(state: State) -> None:
    """Runtimes, venvs and backends."""
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
def config(state: State) -> None:
    """Every setting and where it came from; what is unsafe or missing."""
    found = state.controller.config()
    lines = [fields([(item.name, f"{item.value}  ({_source(item)})") for item in found.settings])]
    lines += [click.style(f"unsafe: {word}", fg="yellow") for word in found.unsafe]
    lines += [click.style(f"missing: {word}", fg="yellow") for word in found.missing]
    state.show(found, "\n".join(lines))


def _source(item: Setting) -> str:
    return item.source if item.variable in {None, item.name} else f"{item.source}: {item.variable}"


@app.command("prune")
@click.option(
    "--all", "everything", is_flag=True, help="Also what would be made again: caches, tools, current servers."
)
@click.option("--dry-run", is_flag=True, help="Only list it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_state
def prune(state: State, everything: bool, dry_run: bool, yes: bool) -> None:
    """Remove what this home keeps and nothing uses: images of venvs that are gone, servers of old versions."""
    found = state.controller.leftovers(everything=everything)
    if dry_run or not found:
        state.show(
            {"leftovers" if dry_run else "removed": found}, _leftovers(found) if found else "nothing is left over"
        )
        return
    if not yes:
        _confirm(state, found)
    removed = state.controller.prune(everything=everything)
    state.show({"removed": removed}, f"removed:\n{_leftovers(removed)}")


def _confirm(state: State, found: Sequence[Leftover]) -> None:
    if state.json or not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: --yes removes, --dry-run lists")
    state.say(_leftovers(found))
    click.confirm("Remove all of this?", abort=True, err=True)


def _leftovers(found: Sequence[Leftover]) -> str:
    sizes = ("" if one.sizeBytes is None else f"{one.sizeBytes / 1e6:.1f} MB" for one in found)
    return table(("kind", "size", "name"), [(one.kind, size, one.name) for one, size in zip(found, sizes, strict=True)])


@app.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_state
def completion(state: State, shell: str) -> None:
    """Print the completion script of a SHELL: eval "$(venvd completion bash)"."""
    made = get_completion_class(shell)
    if made is None:
        raise click.ClickException(f"there is no completion for {shell}")
    source = made(app, {}, "venvd", "_VENVD_COMPLETE").source()
    state.show({"shell": shell, "script": source}, source)


def run() -> int:
    """Run the program on `sys.argv`; returns its exit code."""
    state = State()
    state.json = wants_json(sys.argv[1:])
    try:
        status = app.main(prog_name="venvd", standalone_mode=False, obj=state)
    except click.ClickException as error:
        error.show()
        state.show_error(as_ours(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        state.show_error(venvd.Cancelled("stopped"))
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status if isinstance(status, int) else DONE


def as_ours(error: click.ClickException) -> venvd.VenvdError:
    """What Click says, as one of our errors."""
    if isinstance(error, FailedError):
        return error.reason
    kind = venvd.InvalidRequest if isinstance(error, click.UsageError) else venvd.Unavailable
    return kind(error.format_message())


def _told(state: State, error: venvd.VenvdError) -> int:
    state.show_error(error)
    if error.traceback:
        click.echo(error.traceback.rstrip(), err=True)
    named = f"{error.error_type}: " if error.error_type else ""
    lost = " (the session's state is lost)" if error.state_lost and "state is lost" not in error.message else ""
    click.echo(f"{click.style('Error', fg='red')}: {named}{error.message}{lost}", err=True)
    if isinstance(error, venvd.NoController):
        return NO_CONTROLLER
    if isinstance(error, venvd.NotFound):
        return NOT_FOUND
    return WRONG_WORDS if isinstance(error, venvd.InvalidRequest) else FAILED
