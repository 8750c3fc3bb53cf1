"""The program `venvd`, run by a test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def started(env: dict[str, str], *words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The program `venvd`, which takes Ctrl-C even if the suite ignores it, and which ends with the test."""
    command = ["env", "--default-signal=INT", sys.executable, "-m", "venvd", *words]
    with subprocess.Popen(command, env=env, **options) as process:
        try:
            yield process
        finally:
            process.terminate()  # `venvd up` ends its controller then
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
