"""The words `backup` and `restore` of the controller's program."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from sqlalchemy.exc import DatabaseError

from venvd_contract.errors import InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_controller.backup.create import Summary, create_backup, create_file
from venvd_controller.backup.restore import restore_backup
from venvd_controller.settings import Settings

_STREAM = "-"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the words to the parser of the program."""
    commands = parser.add_subparsers(dest="command")
    backup = commands.add_parser("backup", help="copy the state of VENVD_HOME into one file, also while it is in use")
    restore = commands.add_parser("restore", help="put the state in a backup into VENVD_HOME and VENVD_DATABASE_URL")
    for each in (backup, restore):
        each.add_argument("file", metavar="FILE", help=f"`{_STREAM}` is standard output or input")
        each.add_argument("--json", action="store_true", help="tell the result, or the error, as an object")
    restore.add_argument("--replace", action="store_true", help="also in place of other state")


def run(settings: Settings, words: argparse.Namespace) -> int:
    """Run a command; return the exit code. A backup to standard output reports its result on standard error."""
    output = sys.stderr if words.file == _STREAM and words.command == "backup" else sys.stdout
    try:
        summary = _run_command(settings, words)
    except (VenvdError, DatabaseError) as caught:
        error = caught if isinstance(caught, VenvdError) else Unavailable(f"the database fails: {caught.orig}")
        if words.json:
            _show_json(error.problem(), output)
        else:
            sys.stderr.write(f"venvd {words.command}: {error.message}\n")
        return 1
    if words.json:
        _show_json(asdict(summary), output)
    else:
        rows = f"{sum(summary.rows.values())} rows of {len(summary.rows)} tables"
        output.write(f"{words.command} of the home {summary.home}: {rows} ({summary.database})\n")
    return 0


def _run_command(settings: Settings, words: argparse.Namespace) -> Summary:
    if words.command == "restore":
        return _restore(settings, words.file, words.replace)
    if words.file != _STREAM:
        with create_file(Path(words.file)) as file:
            return create_backup(settings, file)
    if sys.stdout.isatty():
        raise InvalidRequest("a terminal cannot show a backup: name a file, or redirect the output")
    try:
        summary = create_backup(settings, sys.stdout.buffer)
        sys.stdout.flush()
    except OSError as error:
        raise Unavailable(f"standard output cannot be written: {error.strerror or error}") from None
    return summary


def _restore(settings: Settings, name: str, replace: bool) -> Summary:
    if name == _STREAM:
        return restore_backup(settings, sys.stdin.buffer, replace=replace)
    try:
        with Path(name).open("rb") as file:
            return restore_backup(settings, file, replace=replace)
    except FileNotFoundError:
        raise NotFound(f"there is no file {name}") from None
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror}") from None


def _show_json(data: object, output: TextIO) -> None:
    output.write(json.dumps(data) + "\n")
