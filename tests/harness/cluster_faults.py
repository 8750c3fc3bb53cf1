"""Faults of the cluster itself, which its owner's program makes: `VENVD_TEST_CLUSTER_FAULTS` names it.

- `PROGRAM stop apiserver|kubelet` halts the part, so that it answers nothing, and keeps its connections.
- `PROGRAM continue apiserver|kubelet` lets it go on; that is fine where it was not halted.
- `PROGRAM kill CONTAINER` ends a container with SIGKILL, by its ID in the runtime of its node.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClusterFaults:
    program: str

    def _run(self, *words: str) -> None:
        result = subprocess.run([self.program, *words], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, f"{self.program} {words}: {result.stderr}{result.stdout}"

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        """Halt a part of the cluster for the length of a block."""
        self._run("stop", part)
        try:
            yield
        finally:
            self._run("continue", part)

    def kill(self, pod: dict[str, Any], container: str) -> None:
        """End a container of a pod."""
        [key] = [each["containerID"] for each in pod["status"]["containerStatuses"] if each["name"] == container]
        self._run("kill", key.partition("://")[2])


def find_faults() -> ClusterFaults | None:
    program = os.environ.get("VENVD_TEST_CLUSTER_FAULTS")
    return ClusterFaults(program) if program else None
