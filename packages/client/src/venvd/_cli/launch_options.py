"""The options that every command with a description of a backend has."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click

from venvd._cli.size import Size
from venvd._cli.venv import parse_pairs, parse_server_settings
from venvd_contract.resources import LONGEST_LEASE, MOST_QUEUED, QUEUE_LIMIT, BackendLimits

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--oci-runtime",
        "ociRuntime",
        metavar="NAME",
        help="The OCI runtime of the worker host, such as runsc. Default: the venv's setting. For operators.",
    ),
    click.option("--no-token", is_flag=True, help="Serve without a token. Only for the loopback address or a socket."),
    click.option("--memory", type=Size(), metavar="SIZE", help="Memory of the worker host, such as 512m or 2g."),
    click.option("--cpus", type=click.FloatRange(0, min_open=True), help="CPUs of the worker host."),
    click.option("--processes", type=click.IntRange(1), help="Processes of the worker host."),
    click.option(
        "--env", multiple=True, metavar="NAME=VALUE", help="An environment variable of user code. Repeatable."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Limit of calls that name no timeout.",
    ),
    click.option("--server", multiple=True, metavar="NAME=VALUE", help="A setting of the server. Repeatable."),
    click.option(
        "--queue-limit",
        "queueLimit",
        type=click.IntRange(0, MOST_QUEUED),
        metavar="CALLS",
        help=f"How many calls may wait in one session. Default: {QUEUE_LIMIT}.",
    ),
    click.option(
        "--handle-lease",
        "handleLease",
        type=click.FloatRange(0, LONGEST_LEASE),
        metavar="SECONDS",
        help="Time after which an unused handle is freed if its client named none. Default: never.",
    ),
)


def launch_options(command: _Command) -> _Command:
    """Add the options to a command. `take_launch_fields` reads them."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def take_launch_fields(options: dict[str, Any]) -> None:
    """Replace the values of the options with the fields of a backend."""
    options["limits"] = BackendLimits(options.pop("memory"), options.pop("cpus"), options.pop("processes"))
    options["token"] = not options.pop("no_token")
    options["env"] = parse_pairs(options["env"])
    options["server"] = parse_server_settings(options["server"])
