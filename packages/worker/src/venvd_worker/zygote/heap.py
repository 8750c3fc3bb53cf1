"""The heap that forks share: its holes are filled, so that what a fork allocates lies close together.

Imports leave free blocks all over the heap. A fork that took one of them would write to the page around it, which the
kernel then copies for that fork alone.
"""

from __future__ import annotations

from typing import List

_GRAIN = 16
_OVERHEAD = 33
"""Bytes of an empty `bytes`, with the byte at its end."""
_LARGEST_BLOCK = 512
"""Python's allocator has a list of free blocks for each size up to here; the C library has the larger ones."""
_LARGER_BLOCKS = (65536, 32768, 16384, 8192, 4096, 3072, 2048, 1536, 1280, 1024, 896, 768, 640, 544)
_PAGE = 4096
_SHORTEST_RUN = 4
_MOST_BYTES = 4 << 20
"""Of one size; so many holes are not filled."""


def fill() -> List[bytes]:
    """Fill the holes of the heap; they stay filled as long as what it returns is kept."""
    kept: List[bytes] = []
    for size in (*_LARGER_BLOCKS, *range(_LARGEST_BLOCK, _OVERHEAD, -_GRAIN)):
        kept.extend(_fill(size))
    return kept


def _fill(size: int) -> List[bytes]:
    """Take blocks of a size until some in a row lie one after the other; give those back, and return the others."""
    taken: List[bytes] = []
    run_length = max(_SHORTEST_RUN, _PAGE // size)
    run, before, step = 0, 0, 0
    for _ in range(_MOST_BYTES // size):
        block = bytes(size - _OVERHEAD)
        taken.append(block)
        distance = id(block) - before
        run = run + 1 if distance == step and 0 < distance < size + 2 * _GRAIN else 0
        before, step = id(block), distance
        if run == run_length:
            return taken[: -run - 1]
    return []  # another allocator, which places blocks in another way
