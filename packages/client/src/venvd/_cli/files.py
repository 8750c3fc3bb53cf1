"""`venvd files`: list, fetch, send and delete files of a session's working directory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import venvd
from venvd._cli.code import open_session, session_options
from venvd._cli.command import Command, Group, State, pass_state, table
from venvd_contract.files import FileInfo


class FileCommand(Command):
    """A command about the files of one session, with the options that name it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = session_options()


@click.group("files", cls=Group)
def files() -> None:
    """Files of a session's working directory."""


@files.command("ls", cls=FileCommand)
@click.argument("path", default="")
@click.option("--recursive", "-r", is_flag=True, help="Also list everything below its directories.")
@pass_state
def list_(state: State, /, path: str, recursive: bool, **session_names: str | None) -> None:
    """List the working directory, or the directory PATH in it."""
    with open_session(state, **session_names) as session:
        listed = session.files.list(path, recursive=recursive)
    rows = [(file.kind, file.sizeBytes if file.kind == "file" else None, file.modifiedAt, file.path) for file in listed]
    state.show(listed, table(("kind", "bytes", "modified", "path"), rows))


@files.command("get", cls=FileCommand)
@click.argument("path")
@click.argument("target", required=False)
@pass_state
def get(state: State, /, path: str, target: str | None, **session_names: str | None) -> None:
    """Fetch the file or directory PATH into the local TARGET. Default: its own name here. - writes to stdout."""
    with open_session(state, **session_names) as session:
        if target == "-":
            session.files.save(path, sys.stdout.buffer)
            return
        to = Path(target or ".")
        if to.is_dir():
            to /= Path(path).name
        with _local_errors(to):
            _show_file(state, session.files.save(path, to), f"{to}")


@files.command("put", cls=FileCommand)
@click.argument("source")
@click.argument("path", required=False)
@pass_state
def put(state: State, /, source: str, path: str | None, **session_names: str | None) -> None:
    """Send the local file or directory SOURCE (- reads stdin) as PATH, or into PATH/. Default: its own name."""
    if source == "-" and (not path or path.endswith("/")):
        raise venvd.InvalidRequest("the bytes from stdin need the PATH of a file")
    to = f"{path or ''}{Path(source).name}" if not path or path.endswith("/") else path
    with open_session(state, **session_names) as session, _local_errors(source):
        _show_file(state, session.files.put(to, sys.stdin.buffer if source == "-" else Path(source)), to)


@files.command("rm", cls=FileCommand)
@click.argument("path")
@click.option("--recursive", "-r", is_flag=True, help="Also a directory with everything in it.")
@pass_state
def remove(state: State, /, path: str, recursive: bool, **session_names: str | None) -> None:
    """Delete the file or empty directory PATH."""
    with open_session(state, **session_names) as session:
        session.files.delete(path, recursive=recursive)
    state.show({"success": True}, f"deleted {path}")


@contextlib.contextmanager
def _local_errors(place: object) -> Iterator[None]:
    """Turn errors of local files into errors with a message."""
    try:
        yield
    except venvd.VenvdError:
        raise
    except OSError as error:
        raise venvd.InvalidRequest(f"{place}: {error.strerror}") from None


def _show_file(state: State, info: FileInfo, place: str) -> None:
    state.show(info, f"{place} ({info.sizeBytes} bytes)")
