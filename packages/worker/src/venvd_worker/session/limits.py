"""Sets the limits of one session that the kernel enforces, and makes the errors of calls that exceed them."""

from __future__ import annotations

import errno
import os
import resource
from typing import Optional

from venvd_contract.errors import LimitExceeded
from venvd_contract.session_requests import Limits
from venvd_worker.common import usage
from venvd_worker.common.usage import CPU_GRACE
from venvd_worker.session.interrupts import ProcessorTimeUsedUp

_MOST_OPEN_FILES, _MOST_SIGNALS, _MOST_QUEUE_BYTES = 8192, 1024, 0
"""The kernel counts descriptors in flight, queued signals and message queues for all processes of a user together. The
other processes of a worker host may use more than its sessions. So they have room if a session takes all it can."""
_HEADROOM = 16 << 20
"""Bytes of memory to report that memory ran out."""


class Guard:
    """Sets the limits of this process and tells what exceeded them."""

    def __init__(self) -> None:
        self._limits = Limits()

    def apply(self, limits: Limits) -> None:
        """Set the limits in the kernel, for this process and all that it starts."""
        self._limits = limits
        _set(resource.RLIMIT_CORE, 0)
        _set(resource.RLIMIT_NOFILE, limits.openFiles)
        _cap(resource.RLIMIT_NOFILE, _MOST_OPEN_FILES)
        _cap(resource.RLIMIT_SIGPENDING, _MOST_SIGNALS)
        _cap(resource.RLIMIT_MSGQUEUE, _MOST_QUEUE_BYTES)
        _set(resource.RLIMIT_FSIZE, limits.fileSizeBytes)
        if limits.memoryBytes is not None:
            allowed = usage.data_size(os.getpid()) + limits.memoryBytes
            _set(resource.RLIMIT_DATA, allowed, _HEADROOM)
        if limits.cpuSeconds is not None:
            _set(resource.RLIMIT_CPU, limits.cpuSeconds, 2 * CPU_GRACE)  # the warden kills before, and says why

    def make_room(self) -> None:
        """Allow a little more memory to report the error."""
        if self._limits.memoryBytes is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def take_room_back(self) -> None:
        if self._limits.memoryBytes is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (max(0, hard - _HEADROOM), hard))

    def explain(self, error: BaseException) -> Optional[LimitExceeded]:
        """Return the error of the limit that caused `error`, or None if no limit did."""
        limits = self._limits
        if isinstance(error, ProcessorTimeUsedUp):
            return LimitExceeded("the session used up its processor time: cpuSeconds is {}".format(limits.cpuSeconds))
        if isinstance(error, MemoryError) and limits.memoryBytes is not None:
            return LimitExceeded("the session ran out of memory: memoryBytes is {}".format(limits.memoryBytes))
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EMFILE and limits.openFiles is not None:
            return LimitExceeded("the session has too many open files: openFiles is {}".format(limits.openFiles))
        if number == errno.EFBIG and limits.fileSizeBytes is not None:
            return LimitExceeded("a file grew too large: fileSizeBytes is {}".format(limits.fileSizeBytes))
        return None


def _cap(which: int, most: int) -> None:
    """Lower a limit's hard limit, if the kernel has this limit. gVisor has none for signals and queues."""
    soft, hard = resource.getrlimit(which)
    hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
    try:
        resource.setrlimit(which, (hard if soft == resource.RLIM_INFINITY else min(soft, hard), hard))
    except ValueError:  # Linux always lets a process lower its limits
        pass


def _set(which: int, soft: Optional[int], extra: int = 0) -> None:
    """Lower a limit. Leave a limit that is lower already."""
    if soft is None:
        return
    _, ceiling = resource.getrlimit(which)
    hard = soft + extra if ceiling == resource.RLIM_INFINITY else min(soft + extra, ceiling)
    resource.setrlimit(which, (min(soft, hard), hard))
