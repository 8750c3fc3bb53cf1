"""Fills the holes of the heap that forks share, so that what a fork allocates lies close together.

Imports leave free blocks all over the heap. A fork that took one of them would write to the page around it. Then the
kernel would copy this page for that fork alone.
"""

from __future__ import annotations

from typing import List

_GRAIN = 16
_OVERHEAD = 33
"""Size in bytes of an empty `bytes` object, with the zero byte at its end."""
_LARGEST_BLOCK = 512
"""Python's allocator has a list of free blocks for each size up to here. The C library allocates larger ones."""
_LARGER_BLOCKS = (65536, 32768, 16384, 8192, 4096, 3072, 2048, 1536, 1280, 1024, 896, 768, 640, 544)
_PAGE = 4096
_SHORTEST_RUN = 4
_MOST_BYTES = 4 << 20
"""Bytes of blocks to take of one size. If its holes have more bytes together, they stay."""


def fill() -> List[bytes]:
    """Fill the holes of the heap. They stay filled as long as the caller keeps the result."""
    kept: List[bytes] = []
    for size in (*_LARGER_BLOCKS, *range(_LARGEST_BLOCK, _OVERHEAD, -_GRAIN)):
        kept.extend(_fill(size))
    return kept


def _fill(size: int) -> List[bytes]:
    """Take blocks of a size until several in a row are adjacent. Free those, and return the others."""
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
    return []  # the holes are too many, or another allocator places blocks in another way
