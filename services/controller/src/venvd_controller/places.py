"""Rows of launches beside the launch of a place. A place is a replica or the router."""

from __future__ import annotations

import secrets
from dataclasses import replace

from venvd_controller.database.tables import FORMER, NEXT, LaunchRow
from venvd_controller.launch_rows import make_row, read_spec

_LONGEST_NAME = 63
_LAUNCH = (
    "launch",
    "launched_by",
    "record",
    "url",
    "ports",
    "started_at",
    "walls",
    "server",
    "user_id",
    "python",
    "key",
    "audit_position",
    "state",
)
"""The columns that describe a launch."""


def make_next_row(row: LaunchRow) -> LaunchRow:
    """Make the row of a launch that will take the place of the launch of `row`."""
    spec = replace(read_spec(row), ttl=None, port=None, httpPort=None)
    ending = f"--{secrets.token_hex(4)}"
    following = make_row(row.name[: _LONGEST_NAME - len(ending)] + ending, spec, declared=False)
    following.replica_of, following.replica, following.stage = row.replica_of or row.name, row.replica, NEXT
    following.nonce, following.tokens, following.pinned_key = row.nonce, row.tokens, row.wanted_key
    return following


def exchange_launches(row: LaunchRow, following: LaunchRow) -> None:
    """Give a place the launch of its successor. The successor's row gets the old launch and becomes `FORMER`."""
    if row.key != following.key:
        row.previous_key = row.key
    for column in _LAUNCH:
        ours, theirs = getattr(row, column), getattr(following, column)
        setattr(row, column, theirs)
        setattr(following, column, ours)
    following.stage = FORMER
    row.pinned_key, row.wanted_key, row.error = following.pinned_key, None, None
    row.failures, row.retry_at, row.update_failures = 0, 0.0, 0
    row.failed_update = row.update_error = None
