"""Keeps our descriptors far above those of user code, and out of the programs that user code starts."""

from __future__ import annotations

import fcntl
import os
import resource

_TOP = 1024
_ROOM = 32


def lift(descriptor: int) -> int:
    """Move a descriptor up, away from those of user code. Exec closes the new one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(3, min(soft, _TOP) - _ROOM)
    try:
        lifted = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:  # no room up there
        os.set_inheritable(descriptor, False)
        return descriptor
    os.close(descriptor)
    return lifted
