"""The sessions of a warden: what they say, what is watched of them, and how their processes are reaped."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Protocol, Set

from venvd_worker import children, control, directories, logs
from venvd_worker.control import Garbled, Packet
from venvd_worker.courier import Couriers
from venvd_worker.endings import Verdict, traced
from venvd_worker.loop import Loop
from venvd_worker.nursery import Nursery
from venvd_worker.ward import Ward

_WATCH_EVERY, _SWEEP_EVERY = 0.1, 1.0
_LINGER = 0.5
"""Seconds that a session whose control connection is closed may take to end by itself."""
_FAREWELL = 5.0
"""Seconds after which the end of a session is told although something of its tree cannot be killed."""
_MOST_LOGS = 64
"""Pipes of processes in the background that the warden reads for one session."""


class Ear(Protocol):
    """Who is told what becomes of sessions, and what they say."""

    def came_up(self, ward: Ward) -> None:
        """It takes requests from now on."""

    def ended(self, ward: Ward, farewell: Dict[str, Any]) -> None:
        """It is over, and this is the data of its `exited` event."""

    def shared(self, ward: Ward, message: Dict[str, Any], descriptors: List[int]) -> None:
        """It made segments of memory or gave some up; the descriptors are to be closed."""

    def refused(self, ward: Ward, told: Dict[str, Any]) -> None:
        """It could not take a direct client."""


class Wards:
    """Sessions by name, from their start until their tree is gone.

    Args:
        nursery: the processes that are about to become sessions.
        couriers: what carries files for them, and ends with them.
    """

    def __init__(self, loop: Loop, nursery: Nursery, couriers: Couriers, ear: Ear) -> None:
        self._loop = loop
        self._nursery = nursery
        self._ear = ear
        self._pid = os.getpid()
        self._by_name: Dict[str, Ward] = {}
        self._couriers = couriers
        self._helpers: Set[int] = set()
        self._watching = False

    def __iter__(self) -> Iterator[Ward]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def busy(self) -> bool:
        """Whether any session is left, or work that follows its end."""
        return bool(self._by_name or self._helpers)

    def get(self, name: str) -> Optional[Ward]:
        return self._by_name.get(name)

    def add(self, ward: Ward) -> None:
        self._by_name[ward.name] = ward
        self._loop.add(ward.control, lambda: self._hear(ward))
        for pipe in ward.logs:
            self._loop.add(pipe, partial(self._pass_on, pipe))
        if ward.limited:
            self._watch()

    # ---- ends

    def reap(self) -> None:
        """Take note of every process that ended, and of sessions whose whole tree has."""
        by_pid = {ward.pid: ward for ward in self if ward.alive}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if os.WIFSTOPPED(status):  # told of processes that asked for it with PTRACE_TRACEME
                self._stopped(pid, by_pid.get(pid), status)
            else:
                self._ended(pid, by_pid.get(pid), status)
        self._sweep()

    def _ended(self, pid: int, ward: Optional[Ward], status: int) -> None:
        self._helpers.discard(pid)
        self._nursery.ended(pid, status)
        self._couriers.ended(pid)
        if ward is not None:
            ward.exited(status)
            self._loop.later(_FAREWELL, partial(self._bury, ward))

    def _stopped(self, pid: int, ward: Optional[Ward], status: int) -> None:
        """It would wait for ever for its tracer to let it go on."""
        if ward is not None:
            ward.end(traced(status))
        else:
            children.end([pid])

    def keep_sweeping(self) -> None:
        """Look for strays now and every so often."""
        self._sweep()
        self._couriers.end_stopped()
        self._loop.later(_SWEEP_EVERY, self.keep_sweeping)

    def _sweep(self) -> None:
        """Kill what outlived its session: with its parents gone, it became a child of this process."""
        anybody_ended = any(not ward.alive for ward in self)
        found = children.all_children(self._pid) if anybody_ended else children.children(self._pid)
        self._nursery.hear()
        alive = {ward.pid for ward in self if ward.alive}
        known = alive | self._helpers | self._couriers.under_way
        strays = [pid for pid in found if pid not in known and not self._nursery.owns(pid)]
        if strays:
            children.end(strays)  # their end is a SIGCHLD, which leads here again
        else:
            self._tell_ended()

    def _tell_ended(self) -> None:
        for ward in [ward for ward in self if not ward.alive]:
            self._bury(ward)

    def _bury(self, ward: Ward) -> None:
        """Tell of the end of a session, once."""
        if self._by_name.get(ward.name) is not ward:
            return
        del self._by_name[ward.name]
        self._loop.remove(ward.control)
        for pipe in ward.logs:
            self._loop.remove(pipe)
            pipe.pass_on()
        self._couriers.end(ward)
        farewell = ward.farewell()
        ward.close()
        self._remove(ward.directory.root)
        self._ear.ended(ward, farewell)

    def _remove(self, root: str) -> None:
        """In a process of its own: a session may leave more files than the others should wait for."""
        try:
            pid = os.fork()
        except OSError:
            directories.remove(root)
            return
        if pid:
            self._helpers.add(pid)
            return
        try:
            directories.remove(root)
        finally:
            os._exit(0)

    # ---- limits

    def _watch(self) -> None:
        """Look after the limits of sessions, as long as there are any that have some."""
        if not self._watching:
            self._watching = True
            self._loop.later(_WATCH_EVERY, self._check_limits)

    def _check_limits(self) -> None:
        self._watching = False
        limited = [ward for ward in self if ward.limited and ward.alive]
        for ward in limited:
            ward.check()
        if limited:
            self._watch()

    # ---- what they say

    def _hear(self, ward: Ward) -> None:
        try:
            packet = ward.control.receive()
        except (EOFError, Garbled):
            self._loop.remove(ward.control)
            self._loop.later(_LINGER, lambda: ward.end(Verdict("exit", "closed the descriptors of its session")))
            return
        if packet is None:
            return
        if "log" in packet.message:
            self._read_log(ward, packet)
            return
        if "segment" in packet.message or "gone" in packet.message:
            self._ear.shared(ward, packet.message, packet.descriptors)
            return
        control.close_all(packet.descriptors)
        if "refused" in packet.message:
            self._ear.refused(ward, packet.message)
        elif not ward.up:
            self._ear.came_up(ward)
            ward.came_up()

    def _read_log(self, ward: Ward, packet: Packet) -> None:
        """Go on reading what processes in the background write, so that they are not held up."""
        target = 2 if packet.message["log"] == "stderr" else 1
        for descriptor in packet.descriptors:
            pipe = logs.LogPipe(target, descriptor)
            if len(ward.logs) < _MOST_LOGS and self._loop.try_to_add(pipe, partial(self._pass_on, pipe)):
                ward.logs.append(pipe)
            else:
                pipe.close()

    def _pass_on(self, pipe: logs.LogPipe) -> None:
        if not pipe.pass_on():
            self._loop.remove(pipe)
