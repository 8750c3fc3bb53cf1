"""`build SOCKET` and `backend SOCKET`: see `programs`."""

from __future__ import annotations

import sys

from venvd_egress import programs


def main() -> None:
    """Run the program that the command line names."""
    serve = (
        {"build": programs.serve_build, "backend": programs.serve_backend}.get(sys.argv[1]) if sys.argv[2:] else None
    )
    if serve is None:
        sys.exit("usage: {} build|backend SOCKET".format(sys.argv[0]))
    serve(sys.argv[2])


if __name__ == "__main__":
    main()
