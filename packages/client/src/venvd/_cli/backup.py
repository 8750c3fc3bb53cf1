"""`venvd backup` and `venvd restore`: copy the state of this home. The controller's program does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

import venvd
from venvd._cli.command import Command, State, pass_state
from venvd._controller_process import PROGRAM, is_installed
from venvd._home import NOT_INSTALLED, home_directory, read_line
from venvd_contract.errors import from_fields

_STREAM = "-"
_NOT_INCLUDED = (
    "not in it: images and environments, which are built again, and caches, sockets, logs, and objects of sessions"
)


@click.command("backup", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@pass_state
def backup(state: State, file: str) -> None:
    """Copy the state of VENVD_HOME into a new FILE (`-`: standard output): database, identity, secret, tokens.

    The controller may run meanwhile. The file opens everything: keep it like a key.
    """
    _warn_of_other_controller(state)
    summary = _run(["backup", file], is_output=file == _STREAM)
    if file == _STREAM:
        state.say(f"{_describe(summary)}; {_NOT_INCLUDED}")
        return
    state.show({"file": file, **summary}, f"{file}: {_describe(summary)}")
    state.say(_NOT_INCLUDED)


@click.command("restore", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--replace", is_flag=True, help="Replace the state that is there. It is lost.")
@pass_state
def restore(state: State, file: str, replace: bool) -> None:
    """Put the state in FILE (`-`: standard input) into VENVD_HOME, and into VENVD_DATABASE_URL if that is set.

    No controller may run there. The backup may come from the other kind of database.
    """
    _warn_of_other_controller(state)
    summary = _run(["restore", file, *(["--replace"] if replace else [])])
    state.show({"file": file, **summary}, f"restored into {home_directory()}: {_describe(summary)}")
    state.say("start its controller now, for example with `venvd up --detach`: it starts the backends again")


def _warn_of_other_controller(state: State) -> None:
    url, home = os.environ.get("VENVD_URL"), home_directory()
    if url and url.rstrip("/") != (read_line(home / "url") or "").rstrip("/"):
        state.say(f"this is about the home {home} of this machine, and not about the controller of VENVD_URL, {url}")


def _run(words: Sequence[str], *, is_output: bool = False) -> dict[str, Any]:
    """Run the controller's program. It prints its result as JSON on stdout, or on stderr if stdout is the backup."""
    if not is_installed():
        raise venvd.NoController(NOT_INSTALLED)
    process = subprocess.run(
        [sys.executable, "-m", PROGRAM, *words[:1], "--json", *words[2:], "--", words[1]],
        env={**os.environ, "VENVD_HOME": str(home_directory())},
        stdout=None if is_output else subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
    )
    told = process.stderr if is_output else process.stdout
    try:
        fields = json.loads(told)
    except ValueError:
        raise venvd.Unavailable(f"the controller's program failed: {process.stderr.strip()[-2000:]}") from None
    if process.returncode:
        raise from_fields(fields)
    return dict(fields)


def _describe(summary: dict[str, Any]) -> str:
    rows = sum(summary["rows"].values())
    return f"home {summary['home']}, {rows} rows of {len(summary['rows'])} tables ({summary['database']})"
