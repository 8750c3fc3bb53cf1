"""The memory that a session gets where its container would end as a whole, by made-up files of a cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from venvd_contract.internal.limits import NO_LIMITS, merge_limits
from venvd_worker.warden.container_memory import find_session_memory, limit_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.oom.group": "1\n", "memory.max": f"{GIB}\n"}, GIB * 3 // 4),
        ({"memory.oom.group": "1\n", "memory.max": "max\n"}, None),
        ({"memory.oom.group": "0\n", "memory.max": f"{GIB}\n"}, None),
        ({"memory.max": f"{GIB}\n"}, None),
        ({"memory/memory.limit_in_bytes": f"{GIB}\n"}, None),
    ],
    ids=["kubelet", "no-limit", "docker", "older-kernel", "version-1"],
)
def test_a_container_that_ends_as_a_whole(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    """Three quarters of the container's memory, only where the kernel ends all of its processes at once."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert find_session_memory(str(tmp_path)) == expected


def test_a_limit_of_its_own_stays() -> None:
    """The rule fills in the memory of a session that asks for none, and changes no other limit."""
    asked = merge_limits(NO_LIMITS, {"memoryBytes": GIB, "processes": 5})
    assert limit_memory(asked, 7) == asked
    assert limit_memory(merge_limits(NO_LIMITS, {"processes": 5}), 7) == merge_limits(
        NO_LIMITS, {"memoryBytes": 7, "processes": 5}
    )
    assert limit_memory(NO_LIMITS, None) == NO_LIMITS
