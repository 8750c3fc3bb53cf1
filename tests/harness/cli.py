"""The command line, run as a program."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
    done = subprocess.run(
        [sys.executable, "-m", "venvd", *words],
        env=environment,
        cwd=tempfile.gettempdir(),  # no manifest lies there
        input=stdin,
        capture_output=True,
        encoding=encoding,
        timeout=seconds,
        check=False,
    )
    assert status is None or done.returncode == status, done
    assert "Traceback (most recent call last)" not in done.stderr or "<e" in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)
