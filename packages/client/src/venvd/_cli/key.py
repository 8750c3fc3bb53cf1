"""`venvd key …`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from venvd._cli.command import Group, State, complete_names, fields, pass_state, table
from venvd_contract.access import Key
from venvd_contract.resources import LONGEST_OVERLAP, ROTATION_OVERLAP

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group(cls=Group)
def key() -> None:
    """Access keys: who may do what, and until when."""


def _rows(keys: Sequence[Key]) -> str:
    shown = [
        (
            item.name,
            ", ".join(item.scope),
            f"{item.expiresAt} (expired)" if item.expired else item.expiresAt,
            item.lastUsedAt,
        )
        for item in keys
    ]
    return table(("name", "scope", "expires", "last used"), shown)


def parse_time(text: str | None, *, past: bool = False) -> str | None:
    """Return the time that an option names: RFC 3339, or a number with m, h, d or w, after or before now."""
    if text is None:
        return None
    span = re.fullmatch(r"(\d{1,4})([mhdw])", text)
    if span is not None:
        distance = timedelta(**{_UNITS[span[2]]: int(span[1])})
        return (datetime.now(UTC) + (-distance if past else distance)).isoformat()
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        raise click.BadParameter(
            f'"{text}" is neither a span, such as 12h or 30d, nor a time, such as 2030-01-31'
        ) from None


@key.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="admin, operator, venv:NAME, use:BACKEND or metrics. Repeatable.",
)
@click.option(
    "--expires",
    callback=lambda *words: parse_time(words[2]),
    metavar="WHEN",
    help="12h, 30d, or a time. Default: never.",
)
@pass_state
def create(state: State, name: str, scopes: Sequence[str], expires: str | None) -> None:
    """Create a key and print it. It is shown only once."""
    created = state.controller.keys.create(name, scopes, expires)
    pairs = [
        ("name", created.name),
        ("scope", ", ".join(created.scope)),
        ("expires", created.expiresAt or "never"),
        ("key", created.key),
    ]
    state.show(created, fields(pairs))


@key.command("list")
@pass_state
def list_(state: State) -> None:
    """List the keys, and when each was last used."""
    keys = state.controller.keys.list()
    state.show(keys, _rows(keys))


@key.command("revoke")
@click.argument("name", shell_complete=complete_names("keys"))
@pass_state
def revoke(state: State, name: str) -> None:
    """Revoke a key. It ends at once, and at each backend within seconds."""
    state.controller.keys.revoke(name)
    state.show({"name": name, "revoked": True}, f"{name} is revoked")


@key.command("rotate-admin")
@click.option(
    "--overlap",
    type=click.FloatRange(0, LONGEST_OVERLAP),
    metavar="SECONDS",
    default=ROTATION_OVERLAP,
    help=f"How long earlier tokens stay valid. Default: {ROTATION_OVERLAP:g}.",
)
@pass_state
def rotate_admin(state: State, overlap: float) -> None:
    """Give the home of the controller a new token, and print it. It needs no restart."""
    rotated = state.controller.rotate_token(overlap)
    state.show(rotated, fields([("token", rotated.token), ("previous ends", rotated.previousEndsAt)]))
