"""The programs of the worker archive: `warden`, `zygote`, `session` and `forwarder`; `compile` is for the archive."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the program that the command line names."""
    program = sys.argv[1] if len(sys.argv) > 1 else ""
    if program == "warden":
        _warden()
    elif program == "session" and len(sys.argv) == 3:
        _session(int(sys.argv[2]))
    elif program == "zygote" and len(sys.argv) == 3:
        _zygote(int(sys.argv[2]))
    elif program == "forwarder" and len(sys.argv) == 4:
        _forwarder(int(sys.argv[2]), sys.argv[3])
    elif program == "compile" and len(sys.argv) == 2:
        _compile(os.path.abspath(sys.argv[0]))
    else:
        sys.exit(
            "usage: python -I {} warden --channel DIR [--work-dir DIR] [--site DIR] [--preload MODULE]...".format(
                sys.argv[0]
            )
        )


def _session(control: int) -> NoReturn:
    from venvd_worker.session import session  # noqa: PLC0415 - each program loads only what it needs

    session.main(control)


def _zygote(control: int) -> NoReturn:
    from venvd_worker.zygote import zygote  # noqa: PLC0415

    zygote.main(control)


def _forwarder(port: int, path: str) -> None:
    from venvd_worker import forwarder  # noqa: PLC0415
    from venvd_worker.common import kernel  # noqa: PLC0415

    kernel.hide_memory()
    forwarder.main(port, path)


def _compile(path: str) -> None:
    from venvd_worker import archive  # noqa: PLC0415

    archive.recompile(path)


def _warden() -> None:
    if not sys.flags.no_site:
        # Files of the venv may name modules that Python's start imports; the warden runs nothing of the user's.
        flags = ["-I", "-S", "-B"] if sys.dont_write_bytecode else ["-I", "-S"]
        arguments = [sys.executable, *flags, *sys.argv]
        os.execv(sys.executable, arguments)
    from venvd_worker.warden import command_line  # noqa: PLC0415

    command_line.run_warden(sys.argv[0], sys.argv[2:])


if __name__ == "__main__":
    main()
