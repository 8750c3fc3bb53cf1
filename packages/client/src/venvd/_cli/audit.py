"""`venvd audit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import click

from venvd._cli.command import Command, State, complete_names, pass_state, table
from venvd._cli.key import parse_time
from venvd._cli.terminal import write
from venvd_contract.access import AuditEntry

_POLL_SECONDS = 1.0
_LATE = timedelta(minutes=2)
"""How late a line may come: one that counts refusals, or one for an event that a server reports later."""
_MAX_NEW = 1000
"""Lines to read at a time while following the log."""
_HEADINGS = ("time", "key", "peer", "request", "result", "changed")


def _format_cells(entry: AuditEntry) -> Sequence[str]:
    result = f"{entry.status} {entry.code or ''}".rstrip() + (f" x {entry.count}" if entry.count > 1 else "")
    changed = ", ".join(f"{name}={value}" for name, value in entry.fields.items())
    return (entry.time, entry.key or "-", entry.peer, f"{entry.method} {entry.target}", result, changed)


@click.command("audit", cls=Command)
@click.option(
    "--since", callback=lambda *words: parse_time(words[2], past=True), metavar="WHEN", help="12h, 30d, or a time."
)
@click.option(
    "--key", shell_complete=complete_names("keys"), help="Show only the lines of this key. `admin` is the home's token."
)
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True, help="The newest lines.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come.")
@pass_state
def audit(state: State, since: str | None, key: str | None, limit: int, follow: bool) -> None:
    """Show who changed what, when, from where and with what result, and who was refused."""
    entries = state.controller.audit(since, key, limit)
    if not follow:
        state.show(entries, table(_HEADINGS, [_format_cells(entry) for entry in entries]))
        return
    if state.json:
        raise click.UsageError("--follow has no end and --json prints one array: use only one of them")
    _follow(lambda last: state.controller.audit(_subtract(last.time) if last else since, key, _MAX_NEW), entries)


def _subtract(text: str) -> str:
    return (datetime.fromisoformat(text) - _LATE).isoformat()


def _follow(read: Callable[[AuditEntry | None], Sequence[AuditEntry]], entries: Sequence[AuditEntry]) -> None:
    """Print lines, and then each new one."""
    last: AuditEntry | None = None
    while True:
        for entry in entries:
            if last is None or entry.id > last.id:
                write("  ".join(_format_cells(entry)).rstrip())
                last = entry
        time.sleep(_POLL_SECONDS)
        entries = read(last)
