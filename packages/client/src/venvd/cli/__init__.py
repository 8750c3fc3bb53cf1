"""The command line; it stands on the SDK's public interface alone."""

from __future__ import annotations

import sys


def main() -> None:
    """The program `venvd`."""
    try:
        from venvd.cli.app import run  # noqa: PLC0415 - without the extra the SDK must still be importable
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("venvd: the command line needs one more package: pip install 'venvd[cli]'\n")
        sys.exit(1)
    sys.exit(run())
