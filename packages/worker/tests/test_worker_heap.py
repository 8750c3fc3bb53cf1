"""The holes of a heap, and what is allocated once they are filled."""

from __future__ import annotations

import subprocess
import sys

FILLED = """
from venvd_worker.zygote import heap
blocks = [bytes(67) for _ in range(20_000)]
holes = blocks[::40]
del blocks[::40]
scattered = {id(hole) >> 12 for hole in holes}
del holes
kept = heap.fill()
fresh = [bytes(67) for _ in range(200)]
print(len(scattered), len({id(block) >> 12 for block in fresh}), sum(map(len, kept)))
"""


def test_what_comes_after_a_filling_lies_close_together() -> None:
    """Blocks that are allocated once the holes are filled take few pages, and the filling takes little memory."""
    done = subprocess.run([sys.executable, "-c", FILLED], capture_output=True, text=True, check=True)
    scattered, fresh, kept = map(int, done.stdout.split())
    assert scattered > 300
    assert fresh < 15
    assert kept < 4 << 20
