"""The command line, run as a program."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import forks


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


def run(
    environment: dict[str, str],
    *words: str,
    stdin: str = "",
    encoding: str = "utf-8",
    status: int | None = 0,
    seconds: float = 120,
) -> Ran:
    """Run `venvd` to its end, as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="venvd-cli-") as directory, contextlib.ExitStack() as closing:
        given, out, err = (Path(directory) / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin, encoding)
        streams = (given.open("rb"), out.open("wb"), err.open("wb"))
        for stream in streams:
            closing.enter_context(stream)
        # no manifest lies in the directory of temporary files
        fork = forks.start(forks.COMMAND_LINE, words, environment, streams)
        try:
            code = fork.wait(seconds)
        finally:
            fork.kill()
        done = Ran(code, *(path.read_bytes().decode(encoding) for path in (out, err)))
    assert status is None or done.status == status, done
    assert "Traceback (most recent call last)" not in done.err or "<e" in done.err, done.err
    return done
