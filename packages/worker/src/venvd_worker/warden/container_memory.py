"""Finds how much of this container's memory a session without a limit of its memory gets."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Optional

from venvd_contract.session_requests import Limits
from venvd_worker.common.process_tree import read_file

CGROUP = "/sys/fs/cgroup"
_OF_FOUR = 3
"""Quarters of the container's memory that such a session gets."""


def find_session_memory(cgroup: str = CGROUP) -> Optional[int]:
    """Find the memory limit of a session that asks for none. Return None if the session needs no limit.

    On cgroup version 2, the kernel may kill a whole container when its memory runs out (`memory.oom.group`), because
    the kubelet asks for that. A session must then reach its own limit before.
    """
    if read_file(os.path.join(cgroup, "memory.oom.group")).strip() != b"1":
        return None
    most = read_file(os.path.join(cgroup, "memory.max")).strip()
    return int(most) * _OF_FOUR // 4 if most.isdigit() else None


def limit_memory(limits: Limits, most: Optional[int]) -> Limits:
    """Return the limits of a session. If they do not limit its memory, limit it to `most` bytes."""
    return replace(limits, memoryBytes=most) if limits.memoryBytes is None else limits
