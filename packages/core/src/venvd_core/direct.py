"""Direct clients: their connections were handed to a session, and what the server still does for them.

The session reads and answers; the server has a duplicate of each connection. It sees the client go, ends what runs
out of time, and answers where the session cannot any more. What runs it learns from the slot, which may hold anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from venvd_contract.commands import SessionInfo
from venvd_contract.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    LimitExceeded,
    SessionLost,
    Unavailable,
    Unimplemented,
    VenvdError,
)
from venvd_core.departures import Departures
from venvd_core.life import Ground, Life, Spec
from venvd_core.process import Process
from venvd_core.pulse import Pulse, Sign
from venvd_core.settings import BackendSettings
from venvd_core.slots import RUNNING, SlotState

FORCE_AFTER = 1.0
"""Seconds that the warden has, after the grace, to end what does not stop; then the server asks it to."""

_LOOK_OFTEN, _LOOK = 0.02, 0.1
"""Seconds between looks at the slot of a session with direct clients, while they call and while they do not."""
_LOOK_AGAIN = (0.02, 0.1, 0.5)
"""A call of a client that left may begin in the very moment."""
_MOST_AT_ONCE = 1 << 32
"""Calls, or bytes, that are believed between two looks."""
_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_identity = msgspec.json.Decoder(str | int | float)


@dataclass
class Attachment:
    """A connection to be handed over.

    Attributes:
        sock: a duplicate of it, which belongs to whom this is given as soon as the client was greeted.
        rest: what was read of it and belongs to the session.
        max_line, max_attachment_bytes: what one request may have.
        greeting: makes the line that tells the client that its connection is direct.
        failure: makes the line that answers a request, by its ID as JSON, with an error.
    """

    sock: socket.socket
    rest: bytes
    max_line: int
    max_attachment_bytes: int
    greeting: Callable[[SessionInfo], bytes]
    failure: Callable[[bytes, VenvdError], bytes]


class Admission:
    """How many direct clients a backend has, of how many it may."""

    def __init__(self, settings: BackendSettings) -> None:
        self.offered = settings.attach
        self.timeout = settings.default_timeout
        self.cancels = settings.cancel_on_disconnect
        self.numbers = itertools.count(1)
        self.departures = Departures(asyncio.get_running_loop())
        self.count = 0
        self._most = settings.max_attached
        self._most_of_one = settings.max_attached_per_session

    def check(self, session: str, present: int) -> None:
        """Raises:
        Unimplemented: this backend takes none.
        Busy: there are as many as may be.
        """
        if not self.offered:
            raise Unimplemented("this backend takes no direct clients (VENVD_ATTACH=0): call it without attaching")
        if present >= self._most_of_one:
            raise Busy(f'the session "{session}" has {present} direct clients, which is its limit')
        if self.count >= self._most:
            raise Busy(f"the backend has {self.count} direct clients, which is its limit")


class Host(Ground, Protocol):
    """What the direct clients of a session stand on."""

    admission: Admission
    grace: float


@dataclass(eq=False)
class _Client:
    number: int
    attachment: Attachment

    def tell(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            self.attachment.sock.send(line, _SEND)

    def shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self.attachment.sock.shutdown(socket.SHUT_RDWR)


class Clients:
    """The direct clients of one session."""

    def __init__(self, spec: Spec, slot: int, host: Host, life: Callable[[], Life]) -> None:
        self.calls = 0
        self.used = 0.0
        """When they were last seen to call; `time.monotonic`."""
        self._spec = spec
        self._slot = slot
        self._host = host
        self._life = life
        self._loop = asyncio.get_running_loop()
        self._clients: dict[int, _Client] = {}
        self._leaving: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._overdue = 0.0
        self._stopped = 0
        self._reason = ""
        self._counted = (0, 0, 0, 0)
        self._pulse = Pulse(host.admission.timeout)

    def __len__(self) -> int:
        return len(self._clients)

    # ---- coming

    def check(self) -> None:
        """Raises:
        Unimplemented, Busy: no further client is taken.
        """
        self._host.admission.check(self._spec.id, len(self._clients))

    async def add(self, attachment: Attachment, info: SessionInfo) -> None:
        """Greet a client and hand its connection over; where it cannot be taken after all, it is told so and ended.

        Raises:
            Unimplemented, Busy: as `check`.
            Unavailable: the worker host is away.
        """
        self.check()
        link = self._host.channel.link
        if link is None:
            raise Unavailable(f"{self._host.channel.why}; try again")
        if not link.hello.attach:
            raise Unimplemented("this worker host takes no direct clients: call without attaching")
        client = self._welcome(attachment, info)
        admission = self._host.admission
        terms = {
            "connection": client.number,
            "session": self._spec.id,
            "timeout": admission.timeout,
            "max_line": attachment.max_line,
            "max_attachment_bytes": attachment.max_attachment_bytes,
            "cancel": admission.cancels,
        }
        descriptors = [os.dup(attachment.sock.fileno())]
        if attachment.rest:
            descriptors.append(_in_memory(attachment.rest))
        try:
            await link.request("attach", descriptors=descriptors, session=self._spec.id, terms=terms)
        except VenvdError as error:
            self._turn_away(client, error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _welcome(self, attachment: Attachment, info: SessionInfo) -> _Client:
        admission = self._host.admission
        client = _Client(next(admission.numbers), attachment)
        self._clients[client.number] = client
        admission.count += 1
        admission.departures.watch(attachment.sock.fileno(), lambda: self._left(client))
        client.tell(attachment.greeting(info))
        self._look_later(_LOOK_OFTEN)
        return client

    # ---- going

    def _left(self, client: _Client) -> None:
        """The connection has ended, at the client's end or the session's."""
        slot = self.glance()
        if slot.state == RUNNING and slot.connection == client.number:
            self._leaving.add(client.number)
        self._forget(client)
        client.attachment.sock.close()
        if self._host.admission.cancels:
            self._cancel(client.number)
            for seconds in _LOOK_AGAIN:
                self._loop.call_later(seconds, self._cancel, client.number)

    def _cancel(self, number: int) -> None:
        if self._life().process is None:
            return  # the slot may be another session's by now, or gone
        slot = self._host.slots.read(self._slot)
        if slot.state == RUNNING and slot.connection == number:
            self._stop(slot.sequence, "cancelled")

    def refused(self, number: int, why: str) -> None:
        """The session could not take the connection."""
        client = self._clients.get(number)
        if client is not None:
            self._turn_away(client, LimitExceeded(f"the session could not take the connection: {why[:200]}"))

    def _turn_away(self, client: _Client, error: VenvdError) -> None:
        """It was greeted, and not taken: a mere end would tell it that the session's state is lost."""
        client.tell(client.attachment.failure(b"", error))
        self._end(client)

    def _end(self, client: _Client) -> None:
        if client.number in self._clients:
            self._forget(client)
            client.shut_down()
            client.attachment.sock.close()

    def _forget(self, client: _Client) -> None:
        del self._clients[client.number]
        self._host.admission.count -= 1
        self._host.admission.departures.drop(client.attachment.sock.fileno())

    def lost(self, why: str) -> None:
        """The process is gone, or goes: answer the call that it ran, and end every connection."""
        slot = self.glance()
        client = self._clients.get(slot.connection)
        if client is not None and slot.state == RUNNING:
            stop = self._reason if self._stopped == slot.sequence else None
            client.tell(client.attachment.failure(self._identity(), lost_call(stop, why, self._host.grace)))
        for each in list(self._clients.values()):
            self._end(each)
        self._leaving.clear()

    def _identity(self) -> bytes:
        found = self._host.slots.identity(self._slot)
        try:
            _identity.decode(found)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return b""
        return found

    # ---- what runs

    def on_process(self) -> None:
        """The slot belongs to a new process."""
        self._sequence = self._stopped = 0
        self._pulse = Pulse(self._host.admission.timeout)
        self._counted = (0, 0, 0, 0)

    def running(self) -> SlotState | None:
        """The slot, where it says that a call of a direct client runs."""
        slot = self._host.slots.read(self._slot)
        known = slot.connection in self._clients or slot.connection in self._leaving
        return slot if slot.state == RUNNING and known else None

    def interrupt(self) -> bool:
        """Stop the running call, if it is a direct client's; whether it is."""
        slot = self.running()
        if slot is not None:
            self._stop(slot.sequence, "cancelled")
        return slot is not None

    def glance(self) -> SlotState:
        """The slot; what it counts is counted."""
        slot = self._host.slots.read(self._slot)
        now = slot.direct_answered, slot.direct_failed, slot.bytes_in, slot.bytes_out
        if now != self._counted and self._clients:
            more = (a - b for a, b in zip(now, self._counted, strict=True))
            calls, failed, received, sent = (min(max(0, each), _MOST_AT_ONCE) for each in more)
            self._counted = now
            self.calls += calls
            self.used = time.monotonic()
            self._host.measures.direct(calls, min(failed, calls), received, sent)
        return slot

    def _look_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """End the running call where it ran out of time."""
        self._timer = None
        slot = self.glance()
        if slot.state != RUNNING or slot.connection not in self._leaving:
            self._leaving.clear()
        now = time.monotonic()
        if self.running() is not None:
            self.used = now
            if slot.sequence != self._sequence:
                self._sequence = slot.sequence
                self._overdue = now + self._host.admission.timeout
            if now >= (slot.deadline if slot.deadline > 0 else self._overdue):
                self._stop(slot.sequence, "timeout")
        self._feel(slot, now)
        if self._clients or self._leaving:
            self._look_later(_LOOK_OFTEN if now - self.used < 1.0 else _LOOK)

    def _feel(self, slot: SlotState, now: float) -> None:
        """End a session that hangs although it runs no call, as in the `__del__` of a handle whose lease has ended."""
        process = self._life().process
        sign = Sign.NONE if process is None else self._pulse.look(slot, now)
        if process is not None and sign is Sign.ASK:
            process.ask(self._pulse.number)
        elif process is not None and sign is Sign.DEAD:
            seconds = self._host.admission.timeout
            self._life().end_process(process, f"ran no call, and took none for {seconds:g} s")

    # ---- stopping it

    def _stop(self, sequence: int, reason: str) -> None:
        process = self._life().process
        if process is not None and self._stopped != sequence:
            self._stopped, self._reason = sequence, reason
            process.interrupt(sequence, reason, self._host.grace)
            self._loop.call_later(self._host.grace + FORCE_AFTER, self._force, process, sequence)

    def _force(self, process: Process, sequence: int) -> None:
        if self._life().process is not process:
            return
        slot = self._host.slots.read(self._slot)
        if slot.state == RUNNING and slot.sequence == sequence:
            self._life().end_process(process, "did not stop")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def lost_call(stop: str | None, why: str, grace: float) -> VenvdError:
    """What a call is answered whose process ended while it ran; `stop` says why it was being stopped, if it was."""
    killed = f"did not stop within {grace:g} s, and its session was killed; its state is lost"
    if stop == "timeout":
        return DeadlineExceeded(f"the call ran into its deadline, {killed}", state_lost=True)
    if stop == "cancelled":
        return Cancelled(f"the call was interrupted, {killed}", state_lost=True)
    return SessionLost(f"{why}; its state is lost")


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("venvd-rest", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    return descriptor
