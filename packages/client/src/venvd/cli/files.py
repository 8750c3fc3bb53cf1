"""`venvd files`: list, fetch, send and delete files of a session's working directory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import venvd
from venvd.cli.code import place_options, reached
from venvd.cli.command import Command, Group, State, pass_state, table
from venvd_contract.files import FileInfo


class About(Command):
    """A command about the files of one session, and the options that say which."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = place_options()


@click.group("files", cls=Group)
def files() -> None:
    """Files of a session's working directory."""


@files.command("ls", cls=About)
@click.argument("path", default="")
@click.option("--recursive", "-r", is_flag=True, help="Also what is below its directories.")
@pass_state
def list_(state: State, /, path: str, recursive: bool, **where: str | None) -> None:
    """List the working directory, or the directory PATH in it."""
    with reached(state, **where) as session:
        found = session.files.list(path, recursive=recursive)
    rows = [(each.kind, each.sizeBytes if each.kind == "file" else None, each.modifiedAt, each.path) for each in found]
    state.show(found, table(("kind", "bytes", "modified", "path"), rows))


@files.command("get", cls=About)
@click.argument("path")
@click.argument("target", required=False)
@pass_state
def get(state: State, /, path: str, target: str | None, **where: str | None) -> None:
    """Fetch PATH into the local file or directory TARGET: absent is its own name here, - is stdout."""
    with reached(state, **where) as session:
        if target == "-":
            session.files.save(path, sys.stdout.buffer)
            return
        to = Path(target or ".")
        if to.is_dir():
            to /= Path(path).name
        with _local(to):
            _told(state, session.files.save(path, to), f"{to}")


@files.command("put", cls=About)
@click.argument("source")
@click.argument("path", required=False)
@pass_state
def put(state: State, /, source: str, path: str | None, **where: str | None) -> None:
    """Send the local file SOURCE (- is stdin) as PATH: absent is its own name, what ends with / a directory."""
    if source == "-" and (not path or path.endswith("/")):
        raise venvd.InvalidRequest("what comes from stdin needs the path of a file")
    to = f"{path or ''}{Path(source).name}" if not path or path.endswith("/") else path
    with reached(state, **where) as session, _local(source):
        _told(state, session.files.put(to, sys.stdin.buffer if source == "-" else Path(source)), to)


@files.command("rm", cls=About)
@click.argument("path")
@click.option("--recursive", "-r", is_flag=True, help="A directory with all that is in it.")
@pass_state
def remove(state: State, /, path: str, recursive: bool, **where: str | None) -> None:
    """Delete the file or empty directory PATH."""
    with reached(state, **where) as session:
        session.files.delete(path, recursive=recursive)
    state.show({"success": True}, f"deleted {path}")


@contextlib.contextmanager
def _local(place: object) -> Iterator[None]:
    """Errors of this machine's files, in words."""
    try:
        yield
    except venvd.VenvdError:
        raise
    except OSError as error:
        raise venvd.InvalidRequest(f"{place}: {error.strerror}") from None


def _told(state: State, info: FileInfo, place: str) -> None:
    state.show(info, f"{place} ({info.sizeBytes} bytes)")
