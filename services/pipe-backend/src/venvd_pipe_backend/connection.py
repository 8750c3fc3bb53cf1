"""One client: bytes in, calls, bytes out, without a task for any of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Any, Protocol, cast

from venvd_contract.commands import ATTACH, COMMANDS
from venvd_contract.errors import Busy, Cancelled, InvalidRequest, Unauthenticated, VenvdError
from venvd_core.backend import CANCEL, Backend, Call, Reply
from venvd_core.hangup import HangupWatcher
from venvd_pipe_backend import arrays, handover, peers
from venvd_pipe_backend.messages import SMALL, MalformedError, Message, Reader, decode
from venvd_pipe_backend.replies import Order, Turn, answer, event, failure, head, outcome
from venvd_pipe_backend.settings import PipeSettings

log = logging.getLogger(__name__)

APART = frozenset({ATTACH, *arrays.COMMANDS})
"""Commands that are not simply passed on."""
OPEN = frozenset(command.name for command in COMMANDS if command.open)
HIGH_WATER = 256 * 1024
"""Bytes of unread replies at which no further request is read."""
HAND_AGAIN = 0.001
"""Seconds between tries to write with a descriptor."""
LINGER = 5.0
"""Seconds that a refused peer has to read why."""
LINGER_BYTES = 64 << 20
"""What it may go on sending meanwhile."""


class Host(Protocol):
    """What a connection needs of the server it belongs to."""

    backend: Backend
    settings: PipeSettings
    hangups: HangupWatcher
    held: int
    """Bytes of requests, of all connections."""

    def admit(self, connection: Connection, peer: socket.socket) -> None:
        """Raises `Busy` or `Forbidden` where there is no room for it, or it may not connect."""

    def linger(self, connection: Connection) -> bool:
        """Whether a connection that was not admitted may stay until its peer has read why."""

    def dismiss(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """The protocol of one connected socket."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host, self._backend, self._settings = host, host.backend, host.settings
        self._loop = loop
        self._reader = Reader(self._settings.max_body, self._settings.max_attachment_bytes)
        self._order = Order(self._write)
        self._calls: dict[Call | asyncio.Task[Reply | None], int] = {}
        """What runs, and the bytes of its request."""
        self._told = self._answered
        self._most = self._settings.max_pipelined
        self._cost = 0
        self._held = 0
        self._shared = arrays.Shared()
        self._intake: arrays.Intake | None = None
        self._seizing = asyncio.Lock()
        self._seized = False
        self._behind: list[bytes] = []
        """What waits until the array before it is written."""
        self._behind_size = 0
        self._writable: list[asyncio.Future[None]] = []
        self._known = False  # a request of it was let in
        self._first = True
        self._handing: asyncio.Task[None] | None = None
        self._paused = False
        self._congested = False
        self._ended = False  # no further request will be read
        self._peer_ended = False
        self._lost = False
        self._lingers_until = 0.0
        self._lingered = 0
        self._since = self._touched = self._moved = loop.time()
        self._written = self._sent = 0

    # ---- the transport's side ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        peer = transport.get_extra_info("socket")
        self._descriptor = peer.fileno()
        try:
            self._host.admit(self, peer)
        except VenvdError as error:
            self._write(failure(head(b""), error))
            self._end()
            if not self._host.linger(self):
                self._transport.close()
            return
        self._host.hangups.watch(self._descriptor, self._hung_up)

    def data_received(self, data: bytes) -> None:
        # what else holds requests up pauses the reading as well
        if self._ended or self._congested or self._intake or len(self._calls) >= self._most:
            self._take(data)
            return
        message = self._reader.alone(data)
        if message is None:
            self._take(data)
            return
        self._begin(message)
        if self._cost > SMALL:
            self._account()

    def _take(self, data: bytes) -> None:
        if self._ended:
            self._discard(len(data))
            return
        self._touched = self._loop.time()
        intake = self._intake
        if intake is not None and intake.open and not self._reader.held and len(data) < intake.remaining:
            intake.take(data)
            return
        limit = self._settings.max_held_bytes
        if self._host.held + len(data) > limit and self._held + len(data) > SMALL:
            self._refuse(Busy(f"all requests together are larger than the limit of {limit} bytes"))
            return
        self._reader.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        self._peer_ended = True
        if peers.hung_up(self._descriptor):
            self._abandon()
        elif self._ended:
            self._close_if_done()
        else:
            self._advance()
        return True

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._tell_writers()
        self._advance()

    def connection_lost(self, _error: Exception | None) -> None:
        self._lost = self._ended = True
        self._host.hangups.unwatch(self._descriptor, self._hung_up)
        self._host.dismiss(self)
        self._host.held -= self._held
        self._held = 0
        self._tell_writers()
        self._cancel_calls()
        self._shared.close()
        if self._handing is not None:
            self._handing.cancel()

    # ---- requests ----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin every whole request that is there, as far as the client reads its replies."""
        while not self._ended and self._handing is None:
            if self._intake is not None and not self._fill(self._intake):
                break
            if self._congested or len(self._calls) >= self._most:
                self._pause()
                break
            try:
                message = self._reader.next()
                if message is None and self._peer_ended and self._reader.midway:
                    self._reader.end()
                    continue
            except MalformedError as wrong:
                self._first = False
                self._answer(wrong.id, wrong.error)
                if wrong.fatal:
                    self._end()
                continue
            if message is not None:
                self._begin(message)
            elif self._peer_ended:
                self._end()
            else:
                self._await_more()
                break
        self._account()

    def _fill(self, intake: arrays.Intake) -> bool:
        """Give it what is there; whether it has all, and requests follow."""
        if not intake.open:
            self._pause()
            return False
        intake.take(self._reader.raw(intake.remaining))
        if intake.remaining and not self._peer_ended:
            self._await_more()
            return False
        if intake.remaining:
            came = intake.size - intake.remaining
            intake.fail(InvalidRequest(f"the array ended after {came} of the {intake.size} bytes that were announced"))
        self._intake = None
        return True

    def _await_more(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _pause(self) -> None:
        if not self._paused and not self._peer_ended:
            self._paused = True
            self._transport.pause_reading()

    def _begin(self, message: Message) -> None:
        apart = message.token is not None or not self._known or message.command in APART
        if apart and not self._is_call(message):
            return
        turn, told = None, self._told
        if not message.tag:
            turn = self._order.turn()
            told = partial(self._answered, turn=turn)
        call = Call(message, told)
        if message.command == CANCEL:
            call.find_call = self._named
        if message.stream:
            call.on_event = partial(self._event, head(message.tag), turn)
        size = self._calls[call] = self._reader.size
        self._cost += size
        self._backend.begin(call)

    def _is_call(self, message: Message) -> bool:
        """Whether it may be begun as any other; else it is taken care of."""
        first, self._first = self._first, False
        try:
            self._let_in(message)
            if message.command == ATTACH:
                self._attach(message, first=first)
        except VenvdError as error:
            self._answer(message.tag, error)
            return False
        if message.command in arrays.COMMANDS:
            self._transfer(message, None if message.tag else self._order.turn())
        return message.command not in APART

    def _transfer(self, message: Message, turn: Turn | None) -> None:
        behind = self._reader.behind if message.attachments else None
        self._intake = None if behind is None else arrays.Intake(behind)
        transfer = arrays.Transfer(self._backend, self, self._shared, message, turn, self._intake)
        task = self._loop.create_task(transfer.run())
        self._calls[task] = self._reader.size
        self._cost += self._reader.size
        task.add_done_callback(partial(self._transferred, head(message.tag), turn))

    def _named(self, identity: Any) -> Call | None:
        """The running call of this connection whose request had that ID."""
        tagged = (call for call in (*self._calls, *self._shared.calls) if isinstance(call, Call) and call.request.tag)
        return next((call for call in tagged if decode(call.request.tag) == identity), None)

    def _attach(self, message: Message, *, first: bool) -> None:
        if not first:
            raise InvalidRequest(f"{ATTACH} must be the first line of a connection: open another one for it")
        session = handover.session_of(message)
        self._pause()
        self._handing = self._loop.create_task(self._hand_over(session, message.tag))

    async def _hand_over(self, session: str | None, identity: bytes) -> None:
        """Let the session have the connection; what was read behind the first line goes with it."""
        rest = self._reader.rest()
        client = handover.direct_client(self._descriptor, rest, identity, self._settings)
        try:
            await self._backend.attach(session, client)
        except VenvdError as error:
            client.sock.close()
            self._handing = None
            self._reader.feed(rest)
            self._answer(identity, error)
            self._advance()
        else:
            # Not when the connection is lost: its descriptor is closed then, and could not be forgotten any more.
            self._host.hangups.unwatch(self._descriptor, self._hung_up)
            self._abandon()

    def _let_in(self, message: Message) -> None:
        if message.token is None and (self._known or message.command in OPEN):
            return
        try:
            self._backend.authorise(message.token)
        except Unauthenticated as error:
            if message.token is None:
                raise Unauthenticated(f'{error.message}: send it once as the field "token"') from None
            raise
        self._known = True

    # ---- replies -----------------------------------------------------------------------------------------------

    def _answered(self, call: Call, turn: Turn | None = None) -> None:
        self._cost -= self._calls.pop(call)
        if self._lost:
            return
        line = answer(call)
        if turn is not None:
            turn.end(line)
        elif self._seized or self._congested:
            self._write(line)
        else:  # what `_write` does, which every call would have to pay for
            self._written += len(line)
            self._transport.write(line)
        if self._paused or self._ended or self._held or self._cost > SMALL:
            self._go_on()

    def _transferred(self, begin: bytes, turn: Turn | None, task: asyncio.Task[Reply | None]) -> None:
        self._cost -= self._calls.pop(task)
        line = outcome(begin, task)
        if self._lost:
            return
        if turn is None:
            self._write(line)
        else:
            turn.end(line)
        self._go_on()

    def _go_on(self) -> None:
        if self._paused:
            self._advance()
        elif self._ended:
            self._close_if_done()
        elif self._held or self._cost > SMALL:
            self._account()

    def _event(self, begin: bytes, turn: Turn | None, kind: str, data: Any) -> None:
        if not self._lost:
            (self._write if turn is None else turn.write)(event(begin, kind, data))

    def _answer(self, identity: bytes, error: VenvdError) -> None:
        line = failure(head(identity), error)
        if identity:
            self._write(line)
        else:
            self._order.turn().end(line)

    def _write(self, data: bytes) -> None:
        if (self._seized or self._congested) and not self._may_write(data):
            return
        self._written += len(data)
        self._transport.write(data)

    def _may_write(self, data: bytes) -> bool:
        """Whether to write at once; if not, it waits, or there is too much that was not read."""
        if self._seized:
            self._behind.append(data)
            self._behind_size += len(data)
        unread = self._behind_size + (self._transport.get_write_buffer_size() if self._congested else 0)
        if unread > self._settings.max_unread_bytes:
            log.warning("a client left more replies unread than VENVD_MAX_UNREAD_BYTES allows")
            self._abandon()
            return False
        return not self._seized

    # ---- arrays, as `arrays.Line` ------------------------------------------------------------------------------

    async def seize(self) -> None:
        await self._seizing.acquire()
        self._seized = True

    def let_go(self) -> None:
        self._seized = False
        self._seizing.release()
        behind, self._behind, self._behind_size = self._behind, [], 0
        if behind and not self._lost:
            self._write(b"".join(behind))

    async def put(self, data: bytes | memoryview) -> None:
        while self._congested and not self._lost:
            writable: asyncio.Future[None] = self._loop.create_future()
            self._writable.append(writable)
            await writable
        if self._lost:
            raise Cancelled("the client went away")
        self._written += len(data)
        self._transport.write(data)

    async def hand(self, data: bytes, descriptor: int) -> None:
        while self._transport.get_write_buffer_size() and not self._lost:  # noqa: ASYNC110 — no event tells of that
            await asyncio.sleep(HAND_AGAIN)
        if self._lost:
            raise Cancelled("the client went away")
        sent = await peers.hand(self._descriptor, data, descriptor, HAND_AGAIN)
        self._written += len(data)
        if sent < len(data):
            self._transport.write(data[sent:])

    def proceed(self) -> None:
        if not self._lost:
            self._advance()

    def give_up(self) -> None:
        self._end()

    def _tell_writers(self) -> None:
        writable, self._writable = self._writable, []
        for each in writable:
            if not each.done():
                each.set_result(None)

    # ---- the end -----------------------------------------------------------------------------------------------

    def _refuse(self, error: VenvdError) -> None:
        if self._intake is not None:
            intake, self._intake = self._intake, None
            intake.fail(error)
            self._end()
            return
        self._answer(b"", error)
        self._end()

    def _end(self) -> None:
        """Read no further request; close when what runs is answered."""
        self._ended = True
        self._reader = Reader(0, 0)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()  # to see the peer go
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._calls or self._lost:
            return
        if self._peer_ended:
            self._transport.close()
        elif not self._lingers_until:
            # closed with bytes unread, the socket would lose the reply for a peer that is still sending
            self._lingers_until = self._loop.time() + LINGER
            self._transport.write_eof()

    def _discard(self, size: int) -> None:
        self._lingered += size
        if self._lingered > LINGER_BYTES:
            self._transport.abort()

    def _hung_up(self) -> None:
        # where the socket is read, whatever the peer sent before it went comes first, then the end
        if self._paused or self._peer_ended:
            self._abandon()

    def _abandon(self) -> None:
        self._lost = self._ended = True  # what its calls come to is not written any more
        self._tell_writers()
        self._cancel_calls()
        self._transport.abort()

    def _cancel_calls(self) -> None:
        if self._settings.cancel_on_disconnect:
            for call in list(self._calls):
                call.cancel()

    @property
    def busy(self) -> bool:
        """Whether calls run, or replies are not yet with the peer's kernel."""
        return bool(self._calls or self._transport.get_write_buffer_size())

    def shut_down(self) -> None:
        """The server ends: what runs is answered, nothing else is begun."""
        if not self._ended:
            self._end()

    def abort(self) -> None:
        """Close at once."""
        self._abandon()

    # ---- bounds ------------------------------------------------------------------------------------------------

    def _account(self) -> None:
        held = self._cost + self._reader.held
        self._host.held += held - self._held
        self._held = held

    def inspect(self, now: float) -> None:
        """End the connection where its peer has done nothing for too long; called every so often."""
        unread = self._transport.get_write_buffer_size()
        if not unread or self._written - unread != self._sent:
            self._sent, self._moved = self._written - unread, now
        limit = self._settings.stall_timeout
        if now - self._moved > limit:
            log.warning("a client has not read its replies for %g s", limit)
            self._abandon()
        elif self._lingers_until:
            if now > self._lingers_until:
                self._transport.abort()
        elif self._ended:
            return
        elif (self._reader.midway or self._intake) and not self._paused and now - self._touched > limit:
            self._refuse(InvalidRequest(f"a request began, and nothing more of it came for {limit:g} s"))
        elif not self._known and now - self._since > self._settings.first_request_timeout:
            self._refuse(InvalidRequest(f"no request was let in for {self._settings.first_request_timeout:g} s"))
