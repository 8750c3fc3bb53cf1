"""Options and commands about the replicas of a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from venvd._cli.command import shorten, table
from venvd._cli.moment import Duration
from venvd_contract.resources import DRAIN_TIMEOUT, MOST_REPLICAS, Replica

_Command = TypeVar("_Command", bound=Callable[..., Any])

_COUNT = click.IntRange(1, MOST_REPLICAS)
_OPTIONS = [
    click.option(
        "--replicas",
        type=_COUNT,
        help="How many launches run behind its name. A session lives on one of them. Default: 1. For operators.",
    ),
    click.option("--min-replicas", "minReplicas", type=_COUNT, help="With --max-replicas: the least. Default: 1."),
    click.option(
        "--max-replicas",
        "maxReplicas",
        type=_COUNT,
        help="Let the number of replicas follow their sessions and waiting calls, up to this many. For operators.",
    ),
    click.option(
        "--sessions-per-replica",
        "sessionsPerReplica",
        type=click.IntRange(1),
        metavar="N",
        help="With --max-replicas: sessions of a replica before another one starts. Default: 3/4 of maxSessions.",
    ),
    click.option(
        "--idle-stop",
        "idleStop",
        type=Duration(),
        help="End its replicas after this long without a call; a call starts them again. Default: never.",
    ),
    click.option(
        "--drain-timeout",
        "drainTimeout",
        type=Duration(),
        help=f"How long a replica that is to be removed keeps its sessions. Default: {DRAIN_TIMEOUT:g}s.",
    ),
]


def replica_options(command: _Command) -> _Command:
    """Add the options of `start` about replicas."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def list_replicas(replicas: Sequence[Replica]) -> str:
    """Return a table of the replicas of a backend that has several."""
    if not replicas:
        return ""
    headings = ["replica", "state", "url", "started", "restarts", "error"]
    shown = [
        [str(i.number), "draining" if i.draining else i.state, i.url, i.startedAt, str(i.restarts), shorten(i.error)]
        for i in replicas
    ]
    return "\n" + table(headings, shown)
