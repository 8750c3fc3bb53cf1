"""The commands `venvd console` and `venvd shell`. They import what they need when they run, to keep others fast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from venvd._cli.code import open_session
from venvd._cli.command import State, complete_names, pass_state


@contextlib.contextmanager
def _name_missing_package() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "prompt_toolkit":
            raise
        raise click.ClickException("this needs one more package: pip install 'venvd[cli]'") from None


@click.command("console", cls=click.Command)
@pass_state
def console(state: State) -> int:
    """Run the words of this program at a prompt, or from a pipe line by line.

    `help` lists the words, Tab completes words and names, and Ctrl-C ends the running word only. From a pipe, the
    console goes on after an error, and its exit code is that of the first line that failed.
    """
    with _name_missing_package():
        from venvd._cli.console import run_console  # noqa: PLC0415
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    return run_console(root, state)


@click.command("shell", cls=click.Command)
@click.argument("backend", required=False, metavar="[BACKEND|URL]", shell_complete=complete_names("backends"))
@click.option("--token", help="The backend's token, if a URL is given.")
@click.option("--session", help="The session. Default: `default`, which all clients share.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Limit of each statement.")
@click.option(
    "--save-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where pictures and HTML are saved. Default: a new temporary directory.",
)
@pass_state
def shell(
    state: State,
    /,
    backend: str | None,
    token: str | None,
    session: str | None,
    timeout: float | None,
    save_dir: str | None,
) -> int:
    """Enter Python for a session of a backend.

    Tab completes from the session, NAME? shows the help of an object, Ctrl-C interrupts the running statement and keeps
    the state, and Ctrl-D leaves. From a pipe, the exit code is 1 if a statement raised.
    """
    with _name_missing_package():
        from venvd._cli.shell import run_shell  # noqa: PLC0415
    with open_session(state, backend=backend, token=token, session=session) as commands:
        return run_shell(commands, timeout=timeout, save_dir=save_dir)
