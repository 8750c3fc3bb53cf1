"""The output of the CLI.

Names, values, logs and errors come from other people, so a terminal gets none of their escapes.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from venvd._visible import visible


def write(text: str, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Write to standard output or standard error. A file or a pipe gets the text as it is, a terminal its visible form.

    `style` are the arguments of `click.style`. Only the CLI itself chooses them.
    """
    shown = visible(text) if (sys.stderr if err else sys.stdout).isatty() else text
    click.echo(click.style(shown, **style) if style else shown, err=err, nl=nl)
