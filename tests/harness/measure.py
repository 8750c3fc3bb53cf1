"""What a backend's processes hold, read from /proc: for backends of the local engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.stack import Running, Stack
from harness.waiting import wait_until
from venvd_engines.local import state
from venvd_worker.common.process_tree import list_below

MIB = 1 << 20
RESERVE = ("venvd-zygote", "venvd-spare")
"""Names of processes that are no sessions."""
RESERVES = 3
"""The zygote and its spare forks."""
STANDBY = 1
"""Processes that wait for the next sessions of a server."""
SETTLED_READINGS = 20
"""Readings in a row, each a moment after the one before, that show the same: a fork that is being prepared is done."""
SPARE_THREADS = 4
"""Of pools that grow to a size of their own and stay there."""


@dataclass(frozen=True)
class Held:
    """Sums over the processes of one part of a backend; memory is resident, in bytes."""

    processes: int
    descriptors: int
    threads: int
    memory: int

    def __str__(self) -> str:
        counts = f"{self.processes} processes, {self.descriptors} descriptors, {self.threads} threads"
        return f"{counts}, {self.memory / MIB:.1f} MiB"


@dataclass(frozen=True)
class Parts:
    """The process IDs of a backend's server and warden."""

    server: int
    warden: int

    def zygote(self) -> list[int]:
        """The zygote, and the forks of it that wait."""
        return [pid for pid in list_below(self.warden) if _name(pid) in RESERVE]

    def sessions(self) -> list[int]:
        return [pid for pid in list_below(self.warden) if _name(pid) not in RESERVE]

    def held(self) -> dict[str, Held]:
        parts = {
            "server": [self.server],
            "warden": [self.warden],
            "zygote": self.zygote(),
            "sessions": self.sessions(),
        }
        return {name: held(pids) for name, pids in parts.items()}


def parts(stack: Stack, running: Running) -> Parts:
    """The processes of a backend of the local engine."""
    record = state.read(stack.home / "backends" / running.record.launch_id)
    assert record is not None
    assert record.server.pid is not None
    assert record.worker.pid is not None
    return Parts(record.server.pid, record.worker.pid)


def held(pids: list[int]) -> Held:
    """What processes hold together; one that ends meanwhile does not count."""
    measured = [each for pid in pids if (each := _held(pid)) is not None]
    columns = [sum(column) for column in zip(*measured, strict=True)] or [0, 0, 0]
    return Held(len(measured), *columns)


def settled(processes: Parts, sessions: int) -> dict[str, Held]:
    """What is held once only so many sessions and the standby are left, the zygote has forks, and nothing changes."""
    current = processes.held()
    unchanged = 0

    def settles() -> bool:
        nonlocal current, unchanged
        before, current = current, processes.held()
        unchanged = unchanged + 1 if _are_alike(before, current) else 0
        there = current["sessions"].processes == sessions + STANDBY and current["zygote"].processes == RESERVES
        return there and unchanged >= SETTLED_READINGS

    wait_until(
        settles, lambda: f"sessions or spares do not settle: { {name: str(each) for name, each in current.items()} }"
    )
    return current


def _are_alike(before: Mapping[str, Held], after: Mapping[str, Held]) -> bool:
    return all(
        (was.processes, was.descriptors, was.threads) == (now.processes, now.descriptors, now.threads)
        and abs(now.memory - was.memory) < MIB
        for was, now in zip(before.values(), after.values(), strict=True)
    )


def left(before: Mapping[str, Held], after: Mapping[str, Held], growth: Mapping[str, int]) -> list[str]:
    """What there is more of than before, both times when it had settled; memory may grow by so many bytes."""
    return [
        f"{name}: {now}, before: {was}"
        for name, was in before.items()
        if (now := after[name]).processes > was.processes
        or now.descriptors > was.descriptors
        or now.threads > was.threads + SPARE_THREADS
        or now.memory > was.memory + growth[name]
    ]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _held(pid: int) -> tuple[int, int, int] | None:
    try:
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except PermissionError:
        descriptors = 0  # the process is not dumpable, and only root may look
    except OSError:
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in fields:
        return None
    return descriptors, int(fields["Threads"]), int(fields["VmRSS"].split()[0]) * 1024


class Peak:
    """The most memory that a process has held since this was made, in bytes beyond what it held then."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._read("VmRSS")

    def read(self) -> int:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        lines = self._status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024
