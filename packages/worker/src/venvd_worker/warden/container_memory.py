"""The memory of this container, and the part of it that a session without a limit gets."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Optional

from venvd_contract.commands import Limits
from venvd_worker.common.process_tree import read_file

CGROUP = "/sys/fs/cgroup"
_OF_FOUR = 3
"""The quarters of the container's memory that such a session gets."""


def find_session_memory(cgroup: str = CGROUP) -> Optional[int]:
    """Find the memory of a session that asks for no limit; None where it needs none.

    On cgroup version 2, a container may end as a whole when its memory runs out (`memory.oom.group`): the kubelet asks
    for that. A session must then meet a limit of its own before.
    """
    if read_file(os.path.join(cgroup, "memory.oom.group")).strip() != b"1":
        return None
    most = read_file(os.path.join(cgroup, "memory.max")).strip()
    return int(most) * _OF_FOUR // 4 if most.isdigit() else None


def limit_memory(limits: Limits, most: Optional[int]) -> Limits:
    """Return the limits of a session, with that memory where they leave it open."""
    return replace(limits, memoryBytes=most) if limits.memoryBytes is None else limits
