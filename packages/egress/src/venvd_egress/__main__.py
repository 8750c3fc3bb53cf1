"""`build SOCKET`, `backend SOCKET` and `shared PORT KEY_FILE`: see `programs`."""

from __future__ import annotations

import sys

from venvd_egress import programs

_PROGRAMS = {"build": programs.serve_build, "backend": programs.serve_backend}
_SHARED = "shared"


def main() -> None:
    """Run the program that the command line names."""
    name, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name == _SHARED and len(words) == 2:
        programs.serve_shared(*words)
    elif name in _PROGRAMS and len(words) == 1:
        _PROGRAMS[name](words[0])
    else:
        sys.exit("usage: {} build|backend SOCKET, or {} PORT KEY_FILE".format(sys.argv[0], _SHARED))


if __name__ == "__main__":
    main()
