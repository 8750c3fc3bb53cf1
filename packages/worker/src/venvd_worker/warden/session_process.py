"""A session as the warden sees it: its process, its tree, its directory, its limits, and why it was ended."""

from __future__ import annotations

import signal
from typing import Any, List, Optional

from venvd_contract.commands import Limits
from venvd_contract.internal.messages import Exited, SessionUsage
from venvd_contract.internal.slots import AT, RUNNING, SIZE, STOP_REASONS, U32, U64
from venvd_worker.common import process_tree, usage
from venvd_worker.common.control import ControlConnection
from venvd_worker.common.directories import Directory
from venvd_worker.common.exit_status import (
    EndReason,
    exit_code,
    exit_signal,
    explain_exit,
    out_of_cpu_time,
    out_of_memory,
    too_many_processes,
)
from venvd_worker.common.slots import SlotMemory
from venvd_worker.common.usage import CPU_GRACE
from venvd_worker.warden.log_pipe import LogPipe


class SlotWatch:
    """A session's slot as the warden sees it: it may hold anything."""

    def __init__(self, memory: SlotMemory, index: int) -> None:
        self._memory = memory.map
        self._base = index * SIZE

    def ask_to_stop(self, sequence: int, reason: str) -> None:
        """Name the call that the next SIGINT is meant for."""
        U32.pack_into(self._memory, self._base + AT["stop_reason"], STOP_REASONS[reason])
        U64.pack_into(self._memory, self._base + AT["stop_sequence"], sequence)

    def runs(self, sequence: int) -> bool:
        """Whether the session says that it still runs this call."""
        (state,) = U32.unpack_from(self._memory, self._base + AT["state"])
        (running,) = U64.unpack_from(self._memory, self._base + AT["sequence"])
        return bool(state == RUNNING and running == sequence)


class SessionProcess:
    """One session's process, from its start until its tree is gone.

    Attributes:
        status: as `wait` gave it, once the process has ended.
        waiting: requests of the server that are answered when the tree is gone.
    """

    def __init__(
        self,
        name: str,
        pid: int,
        watch: SlotWatch,
        limits: Limits,
        directory: Directory,
        control: ControlConnection,
        logs: List[LogPipe],
    ) -> None:
        self.name = name
        self.pid = pid
        self.watch = watch
        self.limits = limits
        self.directory = directory
        self.control = control
        self.logs = logs
        self.status: Optional[int] = None
        self.waiting: List[Any] = []
        self._end_reason: Optional[EndReason] = None
        self._baseline: Optional[int] = None
        self._memory_kills = usage.out_of_memory_kills()

    @property
    def alive(self) -> bool:
        return self.status is None

    @property
    def limited(self) -> bool:
        """Whether its use must be watched closely."""
        limits = self.limits
        return bool(limits.memoryBytes or limits.processes or limits.cpuSeconds)

    def tree(self) -> List[int]:
        return process_tree.list_descendants([self.pid]) if self.alive else []

    @property
    def up(self) -> bool:
        return self._baseline is not None

    def came_up(self) -> None:
        """What the session uses now, it used before any code of the user's ran."""
        self._baseline = usage.measure([self.pid]).private

    # ---- ending

    def interrupt(self, sequence: int, reason: str) -> None:
        self.watch.ask_to_stop(sequence, reason)
        process_tree.send_signal(self.pid, signal.SIGINT)

    def interrupt_again(self, sequence: int, group: bool) -> bool:
        """Interrupt the call, if it still runs; whether it does.

        Args:
            sequence: the call's number in the slot.
            group: also what the call started and waits for, as a terminal would.
        """
        runs = self.alive and self.watch.runs(sequence)
        if runs:
            (process_tree.send_group_signal if group else process_tree.send_signal)(self.pid, signal.SIGINT)
        return runs

    def end(self, reason: EndReason) -> None:
        """Kill the whole tree; the first reason counts."""
        if not self.alive:
            return
        self._end_reason = self._end_reason or reason
        process_tree.kill_tree([self.pid])

    def exited(self, status: int) -> None:
        self.status = status

    def describe_end(self) -> Exited:
        """The event of its end, once the process was reaped."""
        status = self.status or 0
        reason = self._end_reason or explain_exit(status, usage.out_of_memory_kills() > self._memory_kills)
        return Exited(self.name, self.pid, reason.how, reason.word, exit_code(status), exit_signal(status))

    def close(self) -> None:
        self.control.close()
        for pipe in self.logs:
            pipe.close()

    # ---- watching

    def check(self) -> None:
        """End the session where its tree exceeds a limit."""
        reason = self._exceeded_limit()
        if reason is not None:
            self.end(reason)

    def _exceeded_limit(self) -> Optional[EndReason]:
        limits = self.limits
        tree = self.tree()
        used = usage.measure(tree)
        if limits.processes and used.processes > limits.processes:
            return too_many_processes(limits.processes)
        if limits.cpuSeconds and used.cpu > limits.cpuSeconds + CPU_GRACE:
            return out_of_cpu_time(limits.cpuSeconds)
        if limits.memoryBytes and self._too_much_memory(limits.memoryBytes, tree, used):
            return out_of_memory(limits.memoryBytes)
        return None

    def _too_much_memory(self, limit: int, tree: List[int], used: usage.Usage) -> bool:
        if self._baseline is None or used.private <= self._baseline + limit:
            return False
        # Pages shared by fork were counted in each process: look again, slowly.
        return (usage.proportional_private(tree) or used.private) > self._baseline + limit

    def stats(self) -> SessionUsage:
        tree = self.tree()
        used = usage.measure(tree)
        return SessionUsage(used.rss, usage.proportional(tree), round(used.cpu, 2), used.processes)
