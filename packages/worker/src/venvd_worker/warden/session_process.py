"""One session as the warden sees it: its process tree, slot, directory and limits."""

from __future__ import annotations

import signal
from typing import List, Optional

from venvd_contract.internal.messages import Exited, SessionUsage
from venvd_contract.internal.slots import AT, RUNNING, SIZE, STOP_REASONS, U32, U64
from venvd_contract.session_requests import Limits
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
from venvd_worker.warden.log_drain import LogDrain
from venvd_worker.warden.log_pipe import LogPipe
from venvd_worker.warden.server import Request


class WatchedSlot:
    """A session's slot as the warden reads it. The session can write anything into it."""

    def __init__(self, memory: SlotMemory, index: int) -> None:
        self._memory = memory.map
        self._base = index * SIZE

    def ask_to_stop(self, sequence: int, reason: str) -> None:
        """Name the call that the next SIGINT is meant for."""
        U32.pack_into(self._memory, self._base + AT["stop_reason"], STOP_REASONS[reason])
        U64.pack_into(self._memory, self._base + AT["stop_sequence"], sequence)

    def is_running(self, sequence: int) -> bool:
        """Return whether the session says that it still runs this call."""
        (state,) = U32.unpack_from(self._memory, self._base + AT["state"])
        (running,) = U64.unpack_from(self._memory, self._base + AT["sequence"])
        return bool(state == RUNNING and running == sequence)


class SessionProcess:
    """One session's process, from its start until its tree is gone.

    Attributes:
        status: the status from `wait`; None until the process has ended.
        kill_requests: the requests that the warden answers when the tree is gone.
        drain: keeps reading the output of background processes; None before there are any.
        standby: whether the session waits for its name, and has run no user code.
    """

    def __init__(
        self,
        name: str,
        pid: int,
        slot: WatchedSlot,
        limits: Limits,
        directory: Directory,
        control: ControlConnection,
        logs: List[LogPipe],
    ) -> None:
        self.name = name
        self.pid = pid
        self.slot = slot
        self.limits = limits
        self.directory = directory
        self.control = control
        self.logs = logs
        self.status: Optional[int] = None
        self.kill_requests: List[Request] = []
        self.drain: Optional[LogDrain] = None
        self.standby = False
        self._end_reason: Optional[EndReason] = None
        self._baseline: Optional[int] = None
        self._memory_kills = usage.out_of_memory_kills()

    @property
    def alive(self) -> bool:
        return self.status is None

    @property
    def is_up(self) -> bool:
        """Whether the session takes requests."""
        return self._baseline is not None

    def mark_up(self) -> None:
        """Note the memory that the session uses before any user code runs."""
        self._baseline = usage.measure([self.pid]).private

    def list_tree(self) -> List[int]:
        return process_tree.list_descendants([self.pid]) if self.alive else []

    def measure(self) -> SessionUsage:
        """Measure the process tree. This is slow."""
        tree = self.list_tree()
        used = usage.measure(tree)
        return SessionUsage(used.rss, usage.proportional(tree), round(used.cpu, 2), used.processes)

    # ---- ending

    def interrupt(self, sequence: int, reason: str) -> None:
        self.slot.ask_to_stop(sequence, reason)
        process_tree.send_signal(self.pid, signal.SIGINT)

    def interrupt_again(self, sequence: int, *, group: bool) -> None:
        """Interrupt the call if it still runs. With `group`, also interrupt child processes, as a terminal does."""
        if self.alive and self.slot.is_running(sequence):
            send = process_tree.send_group_signal if group else process_tree.send_signal
            send(self.pid, signal.SIGINT)

    def end(self, reason: EndReason) -> None:
        """Kill the whole tree. If there are several reasons, the first one counts."""
        if self.alive:
            self._end_reason = self._end_reason or reason
            process_tree.kill_tree([self.pid])

    def describe_end(self) -> Exited:
        """Return the event of the session's end. Call this after the warden has reaped the process."""
        status = self.status or 0
        reason = self._end_reason or explain_exit(status, usage.out_of_memory_kills() > self._memory_kills)
        return Exited(self.name, self.pid, reason.how, reason.word, exit_code(status), exit_signal(status))

    def close(self) -> None:
        self.control.close()
        if self.drain is not None:
            self.drain.close()
        for pipe in self.logs:
            pipe.close()

    # ---- limits

    @property
    def limited(self) -> bool:
        """Whether the warden must watch what the tree uses."""
        limits = self.limits
        return not self.standby and bool(limits.memoryBytes or limits.processes or limits.cpuSeconds)

    def enforce_limits(self) -> None:
        """End the session if its tree exceeds a limit."""
        reason = self._find_exceeded_limit()
        if reason is not None:
            self.end(reason)

    def _find_exceeded_limit(self) -> Optional[EndReason]:
        limits = self.limits
        tree = self.list_tree()
        used = usage.measure(tree)
        if limits.processes and used.processes > limits.processes:
            return too_many_processes(limits.processes)
        if limits.cpuSeconds and used.cpu > limits.cpuSeconds + CPU_GRACE:
            return out_of_cpu_time(limits.cpuSeconds)
        if limits.memoryBytes and self._uses_more(limits.memoryBytes, tree, used):
            return out_of_memory(limits.memoryBytes)
        return None

    def _uses_more(self, limit: int, tree: List[int], used: usage.Usage) -> bool:
        if self._baseline is None or used.private <= self._baseline + limit:
            return False
        # `used` counts pages that forks share once for each process. The exact figure takes longer.
        return (usage.proportional_private(tree) or used.private) > self._baseline + limit
