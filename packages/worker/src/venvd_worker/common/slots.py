"""The memory of the slots, which warden and sessions map."""

from __future__ import annotations

import mmap
import os

from venvd_contract.internal.slots import SIZE


class SlotMemory:
    """A mapping of `count` slots. The server made the memory."""

    def __init__(self, descriptor: int, count: int) -> None:
        if not 0 < count * SIZE <= os.fstat(descriptor).st_size:
            raise ValueError("the memory of the slots is too small for {} of them".format(count))
        self.count = count
        self.descriptor = descriptor
        self.map = mmap.mmap(descriptor, count * SIZE)

    def close(self) -> None:
        self.map.close()
        os.close(self.descriptor)
