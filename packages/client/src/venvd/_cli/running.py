"""Runs the words of one command line, and makes its errors and exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import venvd
from venvd._cli.command import Group, State, wants_json
from venvd._cli.progress import FailedError
from venvd._cli.terminal import write

DONE, FAILED, USAGE_ERROR, NOT_FOUND, NO_CONTROLLER = range(5)


class App(Group):
    """The program's own group."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn an error of venvd into its exit code.

        Click must not see the error: a `UserError` may also be an `EOFError`, which Click takes for Ctrl-D.
        """
        try:
            return super().invoke(ctx)
        except venvd.VenvdError as error:
            return _show_error(ctx.ensure_object(State), error)


def run_words(group: click.Group, words: Sequence[str], state: State) -> int:
    """Run the command that the words name, and return its exit code. Errors go to stderr, with `--json` to stdout."""
    state.json = wants_json(words)
    try:
        status = group.main(list(words), prog_name="venvd", standalone_mode=False, obj=state)
    except click.ClickException as error:
        error.show()
        state.show_error(convert_error(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        write("stopped", err=True)
        state.show_error(venvd.Cancelled("stopped"))
        return FAILED
    return status if isinstance(status, int) else DONE


def convert_error(error: click.ClickException) -> venvd.VenvdError:
    """Convert an error of Click to an error of venvd."""
    if isinstance(error, FailedError):
        return error.reason
    kind = venvd.InvalidRequest if isinstance(error, click.UsageError) else venvd.Unavailable
    return kind(error.format_message())


def _show_error(state: State, error: venvd.VenvdError) -> int:
    state.show_error(error)
    print_error(error)
    if isinstance(error, venvd.NoController):
        return NO_CONTROLLER
    if isinstance(error, venvd.NotFound):
        return NOT_FOUND
    return USAGE_ERROR if isinstance(error, venvd.InvalidRequest) else FAILED


def print_error(error: venvd.VenvdError) -> None:
    """Print an error on stderr, with the traceback of the user's code if there is one."""
    if error.traceback:
        write(error.traceback.rstrip(), err=True)
    error_type = f"{error.error_type}: " if error.error_type else ""
    lost = " (the session's state is lost)" if error.state_lost and "state is lost" not in error.message else ""
    write("Error", err=True, nl=False, fg="red")
    write(f": {error_type}{error.message}{lost}", err=True)
