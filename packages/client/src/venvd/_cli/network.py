"""The option that says what user code may reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import click

Network = bool | Literal["loopback"] | list[str] | None

_ALL = "all"


def parse_network(_context: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> Network:
    """Parse the words after `--network`. Return None without the option."""
    if not words:
        return None
    if words[-1] in (_ALL, "loopback", "none"):
        if len(words) > 1:
            raise click.UsageError(f'--network {words[-1]} excludes any other "--network"')
        return {_ALL: True, "none": False}.get(words[0], "loopback")
    for word in words:
        if not any(mark in word for mark in ".:"):
            raise click.UsageError(
                f'"{word}" is no destination for --network: write --network example.com, --network "*.example.com" '
                f"or --network {_ALL}"
            )
    return list(words)


def network_options(default: str) -> Callable[[Any], Any]:
    """Add `--network`. `default` says what user code may reach without the option."""
    return click.option(
        "--network",
        multiple=True,
        is_flag=False,
        flag_value=_ALL,
        metavar="[DESTINATION]",
        callback=parse_network,
        help="What user code may reach: example.com or *.example.com (ports 80 and 443), example.com:8080, loopback, "
        f"none, or {_ALL}, which a bare --network stands for. Destinations are repeatable. {default}",
    )


def describe_network(network: Network) -> str | None:
    """Describe what user code may reach. Return None if that is nothing."""
    if isinstance(network, list):
        return " ".join(network) or None
    return "allowed" if network is True else network or None
