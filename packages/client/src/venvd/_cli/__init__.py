"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program `venvd`."""
    try:
        from venvd._cli.app import run  # noqa: PLC0415 - the SDK must be importable without the extra
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("venvd: the command line needs one more package: pip install 'venvd[cli]'\n")
        sys.exit(1)
    sys.exit(run())
