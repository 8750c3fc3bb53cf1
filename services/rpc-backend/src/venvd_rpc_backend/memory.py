"""The allocator, told what this server does with it."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
_MAPPED_FROM = 32 << 20


def keep_freed() -> None:
    """Have the C library keep memory that is freed, up to a bound, in place of giving it back at once.

    A chunk of an array is a buffer of a megabyte that lives for a moment; fresh pages for each of them cost more than
    the bytes that go through them. Where the C library is not glibc, it does as it likes.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
