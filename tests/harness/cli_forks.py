"""`python cli_forks.py`: runs the program `venvd` in forks of one process that has imported it.

Each line of stdin is a request: the words, the environment, the working directory, and the files of the standard
streams. The line of stdout that answers it is the exit code. An import of the program takes most of the time of a run.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from venvd._cli.app import run


def become(request: dict[str, Any]) -> None:
    """Make this fork the process that the request describes."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv[1:] = request["words"]
    for descriptor, path in enumerate(request["streams"]):
        opened = os.open(path, os.O_WRONLY if descriptor else os.O_RDONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (reopen(stream) for stream in (sys.stdin, sys.stdout, sys.stderr))


def reopen(stream: TextIO) -> TextIO:
    """Open the descriptor of a standard stream, without what the stream has read ahead."""
    mode = "r" if stream.readable() else "w"
    return open(stream.fileno(), mode, encoding=stream.encoding, errors=stream.errors, closefd=False)


def serve() -> bool:
    """Answer requests; true in a fork, which is to run the program."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(json.loads(line))
            return True
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201
    return False


if __name__ == "__main__" and serve():
    sys.exit(run())
