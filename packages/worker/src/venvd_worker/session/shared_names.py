"""Names of shared memory that no other session can guess.

All sessions of a worker host share /dev/shm, because the C library knows no other place. No session can list it. But
Python gives a block a name of 32 random bits, and a program can try all such names in hours.
"""

from __future__ import annotations

from typing import Any

from venvd_worker.session.import_hooks import call_after_import

_LENGTH = 37
"""Python's own prefix, and 128 random bits as hexadecimal digits."""


def prepare() -> None:
    """Have `multiprocessing.shared_memory` choose long names."""
    call_after_import("multiprocessing.shared_memory", _lengthen)


def _lengthen(module: Any) -> None:
    if getattr(module, "_SHM_SAFE_NAME_LENGTH", None) is not None:
        module._SHM_SAFE_NAME_LENGTH = _LENGTH  # noqa: SLF001 - it takes no other
