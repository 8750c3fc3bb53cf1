"""`venvd backend manifest`: a pipe backend for the pod of its client."""

from __future__ import annotations

from typing import Any

import click

from venvd._cli.backend import DEFAULT_VENV
from venvd._cli.command import Command, State, complete_names, pass_state
from venvd._cli.launch_options import launch_options, take_launch_fields
from venvd._cli.network import network_options


@click.command("manifest", cls=Command)
@click.argument("name", required=False)
@click.option(
    "--venv",
    default=DEFAULT_VENV,
    shell_complete=complete_names("venvs"),
    help=f"The venv, which must be built already. Default: `{DEFAULT_VENV}`.",
)
@click.option("--image", help="The image of the client. Default: one with Python and the SDK, which sleeps.")
@click.option(
    "--token-version",
    type=click.IntRange(1),
    default=1,
    metavar="NUMBER",
    help="Each number has a token of its own. Default: 1.",
)
@network_options("Default: the venv's setting.")
@launch_options
@pass_state
def manifest(state: State, /, image: str | None, token_version: int, **options: Any) -> None:
    """Print a pod of Kubernetes with a pipe backend beside its client, and its Secret. For operators.

    NAME names both; the default is made from the venv. `kubectl apply -f -` creates them from the output. The
    controller stores nothing about them, and does not watch the pod.
    """
    take_launch_fields(options)
    made = state.controller.backends.make_manifest(image=image, token_version=token_version, **options)
    state.show(made, made.manifest.rstrip())
