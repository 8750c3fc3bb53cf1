"""Settings of the C library's allocator."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
_MAPPED_FROM = 32 << 20


def keep_freed() -> None:
    """Have glibc keep freed memory, up to a limit, instead of returning it to the kernel at once.

    A chunk of an array is a buffer of a megabyte that is freed a moment later. Fresh pages for each chunk would take
    longer than its copy. With another C library, this function does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
