"""Direct clients: pipe clients whose connections the server has handed to the session.

`session.attach` as the first line of a connection makes it direct. The server answers with the session's
`SessionInfo` and sends the descriptor to the warden, which passes it on to the session. From then on the session
reads requests from it, in the framing of the pipe. The calls of direct clients and of the server run one at a time,
each connection in its turn. A direct connection takes only the calls of its session: the server's own commands
(`ping`, `session.*`, `call.*`, `cancel`) need another connection. With `session.pipes` as the next line, requests and
replies use two pipes (docs/decisions/0014-pipes-for-direct-clients.md).

The server keeps a duplicate of each connection and reads nothing from it. If the client disconnects, the server
notices and interrupts its running call. It reads the slot 50 times a second (10 times while there are no calls), ends
calls that exceed their deadline, and counts calls and bytes. If the process ends, the server answers the running call
on its duplicate and ends the connections; clients attach again. The slot is only a hint, because user code can write
to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from venvd_contract.commands import SessionInfo
from venvd_contract.errors import LimitExceeded, Unavailable, Unimplemented, VenvdError
from venvd_contract.internal.control import AttachTerms
from venvd_contract.internal.messages import Attach
from venvd_contract.internal.slots import RUNNING
from venvd_core.callers import Access, Caller
from venvd_core.session.heartbeat import Action, Heartbeat
from venvd_core.session.host import Host, SessionSpec
from venvd_core.session.lifecycle import Lifecycle, make_lost_call_error
from venvd_core.slots import SlotState

_CHECK_OFTEN, _CHECK_SELDOM = 0.02, 0.1
"""Seconds between two reads of the slot of a session with direct clients, while they call and while they do not."""
_CANCEL_DELAYS = (0.02, 0.1, 0.5)
"""Seconds after a client's hang-up at which the server looks for its call again, since the call may just begin."""
_MOST_COUNTED = 1 << 32
"""The most calls, or bytes, that the server counts between two reads."""
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_identity = msgspec.json.Decoder(str | int | float)


@dataclass(eq=False)
class DirectClient:
    """A client that attaches to a session.

    Attributes:
        sock: a duplicate of the connection; `DirectClients` owns it once the client has been greeted.
        rest: bytes that the server has already read; the session must answer them.
        max_line, max_attachment_bytes: limits of one request.
        greeting: makes the line that tells the client that its connection is direct.
        failure: makes an error reply from the ID of a request, as JSON, and the error.
        caller: the sender; the connection ends with its access key.
        number: the number of the connection in slots and for the warden; set when it is handed over.
    """

    sock: socket.socket
    rest: bytes
    max_line: int
    max_attachment_bytes: int
    greeting: Callable[[SessionInfo], bytes]
    failure: Callable[[bytes, VenvdError], bytes]
    caller: Caller | None = None
    number: int = 0
    on_access_end: Callable[[], None] | None = None

    @property
    def access(self) -> Access | None:
        return None if self.caller is None else self.caller.key

    def send(self, line: bytes) -> None:
        """Send without waiting; a client that does not read loses the line."""
        with contextlib.suppress(OSError):
            self.sock.send(line, _SEND_FLAGS)

    def hang_up(self) -> None:
        """End the connection for both sides."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class DirectClients:
    """The direct clients of one session."""

    def __init__(self, spec: SessionSpec, slot: int, host: Host, lifecycle: Lifecycle) -> None:
        self.calls = 0
        self.last_used = 0.0
        """Time at which the server last saw one of their calls; `time.monotonic`."""
        self._spec = spec
        self._slot = slot
        self._host = host
        self._admission = host.admission
        self._lifecycle = lifecycle
        self._loop = asyncio.get_running_loop()
        self._clients: dict[int, DirectClient] = {}
        self._leaving: set[int] = set()
        """Connections that hung up during their call."""
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._deadline = 0.0
        self._stopped_sequence = 0
        self._stop_reason = ""
        self._counted = (0, 0, 0, 0)
        self._heartbeat = Heartbeat(host.admission.timeout)

    # ---- coming

    def check_room(self) -> None:
        """Check that one more client may attach.

        Raises:
            Unimplemented: this backend takes no direct clients.
            Busy: the session or the backend has as many as it may.
        """
        self._admission.check(self._spec.id, len(self._clients))

    async def add(self, client: DirectClient, info: SessionInfo) -> None:
        """Greet a client and hand its connection to the session.

        If that fails after the greeting, the client gets an error and its connection ends.

        Raises:
            Unimplemented, Busy: as `check_room`.
            Unavailable: no worker host is connected.
            Unauthenticated: the client's key has ended.
        """
        self.check_room()
        link = self._host.channel.link
        if link is None:
            raise Unavailable(f"{self._host.channel.why}; try again")
        if not link.hello.attach:
            raise Unimplemented("this worker host takes no direct clients: call without attaching")
        if client.access is not None and client.access.ended:
            raise client.access.error()
        self._register(client)
        client.send(client.greeting(info))
        terms = AttachTerms(
            client.number,
            self._spec.id,
            self._admission.timeout,
            client.max_line,
            client.max_attachment_bytes,
            self._admission.cancel_on_disconnect,
        )
        descriptors = [os.dup(client.sock.fileno())]
        if client.rest:
            descriptors.append(_memfd_of(client.rest))
        try:
            await link.request(Attach(self._spec.id, terms._asdict()), descriptors=descriptors)
        except VenvdError as error:
            self._reject(client, error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _register(self, client: DirectClient) -> None:
        client.number = next(self._admission.numbers)
        self._clients[client.number] = client
        self._admission.count += 1
        self._admission.hangups.watch(client.sock.fileno(), lambda: self._on_hangup(client))
        if client.access is not None:
            client.on_access_end = lambda: self._on_access_end(client)
            client.access.watch(client.on_access_end)
        self._check_later(_CHECK_OFTEN)

    # ---- going

    def _unregister(self, client: DirectClient) -> None:
        del self._clients[client.number]
        self._admission.count -= 1
        self._admission.hangups.unwatch(client.sock.fileno())
        if client.access is not None and client.on_access_end is not None:
            client.access.unwatch(client.on_access_end)

    def _on_hangup(self, client: DirectClient) -> None:
        """Handle the end of a connection, by its client or by the session."""
        slot = self.count_calls()
        if slot.state == RUNNING and slot.connection == client.number:
            self._leaving.add(client.number)
        self._unregister(client)
        client.sock.close()
        if self._admission.cancel_on_disconnect:
            self._cancel_call_of(client.number)
            for seconds in _CANCEL_DELAYS:
                self._loop.call_later(seconds, self._cancel_call_of, client.number)

    def _on_access_end(self, client: DirectClient) -> None:
        """End the connection of a client whose key has ended; send the error unless the session may be writing."""
        if client.number not in self._clients or client.access is None:
            return
        slot = self.count_calls()
        if slot.state != RUNNING or slot.connection != client.number:
            client.send(client.failure(b"", client.access.error()))
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)
        self._on_hangup(client)

    def _cancel_call_of(self, number: int) -> None:
        if self._lifecycle.process is None:
            return  # the slot may belong to another session by now
        slot = self._lifecycle.read_slot()
        if slot.state == RUNNING and slot.connection == number:
            self._stop(slot.sequence, "cancelled")

    def on_refused(self, number: int, why: str) -> None:
        """Tell the client that the session could not take its connection."""
        client = self._clients.get(number)
        if client is not None:
            self._reject(client, LimitExceeded(f"the session could not take the connection: {why[:200]}"))

    def _reject(self, client: DirectClient, error: VenvdError) -> None:
        """End the connection of a greeted client with an error; a mere end would mean that the state is lost."""
        client.send(client.failure(b"", error))
        self._end(client)

    def _end(self, client: DirectClient) -> None:
        if client.number in self._clients:
            self._unregister(client)
            client.hang_up()

    def end_all(self, why: str) -> None:
        """Answer the running call and end every connection, since the process has ended or is about to."""
        slot = self.count_calls()
        client = self._clients.get(slot.connection)
        if client is not None and slot.state == RUNNING:
            stop_reason = self._stop_reason if self._stopped_sequence == slot.sequence else None
            error = make_lost_call_error(stop_reason, why, self._host.grace)
            client.send(client.failure(self._read_request_id(), error))
        for each in list(self._clients.values()):
            self._end(each)
        self._leaving.clear()

    def _read_request_id(self) -> bytes:
        identity = self._host.slots.read_request_id(self._slot)
        try:
            _identity.decode(identity)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return b""
        return identity

    # ---- the running call

    def on_process(self) -> None:
        """Count from zero again: the slot belongs to a new process."""
        self._sequence = self._stopped_sequence = 0
        self._heartbeat = Heartbeat(self._admission.timeout)
        self._counted = (0, 0, 0, 0)

    def find_running(self) -> SlotState | None:
        """Return the slot if it says that a call of a direct client runs, else None."""
        slot = self._lifecycle.read_slot()
        known = slot.connection in self._clients or slot.connection in self._leaving
        return slot if slot.state == RUNNING and known else None

    def interrupt(self) -> bool:
        """Stop the running call if it is a direct client's; return whether it is."""
        slot = self.find_running()
        if slot is not None:
            self._stop(slot.sequence, "cancelled")
        return slot is not None

    def count_calls(self) -> SlotState:
        """Read the slot, and count the calls and bytes since the last read."""
        slot = self._lifecycle.read_slot()
        now = slot.direct_answered, slot.direct_failed, slot.bytes_in, slot.bytes_out
        if now != self._counted and self._clients:
            more = (a - b for a, b in zip(now, self._counted, strict=True))
            calls, failed, received, sent = (min(max(0, each), _MOST_COUNTED) for each in more)
            self._counted = now
            self.calls += calls
            self.last_used = time.monotonic()
            self._host.metrics.record_direct(calls, min(failed, calls), received, sent)
        return slot

    def _check_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        """End the running call after its deadline, and a process that hangs between calls."""
        self._timer = None
        slot = self.count_calls()
        if slot.state != RUNNING or slot.connection not in self._leaving:
            self._leaving.clear()
        now = time.monotonic()
        if self.find_running() is not None:
            self.last_used = now
            if slot.sequence != self._sequence:
                self._sequence = slot.sequence
                self._deadline = now + (slot.deadline - slot.started if slot.deadline > 0 else self._admission.timeout)
            if now >= self._deadline:
                self._stop(slot.sequence, "timeout")
        process = self._lifecycle.process
        if process is not None:
            action = self._heartbeat.check(slot, now)
            if action is Action.ASK:
                process.ask_heartbeat(self._heartbeat.number)
            elif action is Action.END:
                seconds = self._admission.timeout
                self._lifecycle.kill(process, f"hung between calls for {seconds:g} s")
        if self._clients or self._leaving:
            self._check_later(_CHECK_OFTEN if now - self.last_used < 1.0 else _CHECK_SELDOM)

    def _stop(self, sequence: int, reason: str) -> None:
        def still_runs() -> bool:
            slot = self._lifecycle.read_slot()
            return slot.state == RUNNING and slot.sequence == sequence

        if self._lifecycle.process is not None and self._stopped_sequence != sequence:
            self._stopped_sequence, self._stop_reason = sequence, reason
            self._lifecycle.interrupt(sequence, reason, still_runs)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _memfd_of(data: bytes) -> int:
    descriptor = os.memfd_create("venvd-rest", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    return descriptor
