"""Shared memory: memfds with a sealed size, so that no process can shrink one that another process has mapped.

A session gets its segments over a connection of its own, its supply: packets of one JSON object over `SOCK_SEQPACKET`.

| packet | sent by | meaning |
|---|---|---|
| `{"want": bytes}` | session | it needs a segment; it waits for the answer before it asks again |
| `{"name", "size"}` and the memfd, or `{"error", "code"}` | server | the answer |
| `{"gone": [names]}` | session | it does not use these segments again |
"""

from __future__ import annotations

import fcntl
import os

MOST_SEGMENTS = 64
"""Segments of one session, used or not."""
INLINE_BYTES = 64 * 1024
"""An array of up to this many bytes follows its line; a larger one is in a segment."""
LONGEST_NAME = 64

# The standard library names these from CPython 3.13 on.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW = 1, 2, 4


def create_sealed(name: str, size: int) -> int:
    """Make a memfd of `size` zero bytes that can neither shrink nor grow.

    Raises:
        OSError: the process cannot have another descriptor.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_sealed(descriptor: int) -> bool:
    """Return whether a descriptor is a memfd that cannot shrink."""
    try:
        return bool(fcntl.fcntl(descriptor, _F_GET_SEALS) & _SEAL_SHRINK)
    except OSError:  # it is not a memfd
        return False
