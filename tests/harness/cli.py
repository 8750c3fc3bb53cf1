"""The command line, run as a program."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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


@functools.cache
def _forks() -> subprocess.Popen[str]:
    """The process whose forks are the program, one for each test process."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("cli_forks.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def run(
    environment: dict[str, str],
    *words: str,
    stdin: str = "",
    encoding: str = "utf-8",
    status: int | None = 0,
    seconds: float = 120,
) -> Ran:
    """Run `venvd` to its end, as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="venvd-cli-") as directory:
        streams = [Path(directory) / name for name in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.write_text(stdin if stream.name == "stdin" else "", encoding)
        request = {
            "words": words,
            "environment": environment,
            "directory": tempfile.gettempdir(),  # no manifest lies there
            "streams": [str(stream) for stream in streams],
        }
        code = _ask(json.dumps(request), seconds)
        done = Ran(code, *(stream.read_bytes().decode(encoding) for stream in streams[1:]))
    assert status is None or done.status == status, done
    assert "Traceback (most recent call last)" not in done.err or "<e" in done.err, done.err
    return done


def _ask(request: str, seconds: float) -> int:
    forks = _forks()
    assert forks.stdin is not None
    assert forks.stdout is not None
    forks.stdin.write(request + "\n")
    forks.stdin.flush()
    if not select.select([forks.stdout], [], [], seconds)[0]:
        _forks.cache_clear()
        children = Path(f"/proc/{forks.pid}/task/{forks.pid}/children").read_text().split()
        for pid in (forks.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"{request} is not done after {seconds:g} s")
    return int(forks.stdout.readline())
