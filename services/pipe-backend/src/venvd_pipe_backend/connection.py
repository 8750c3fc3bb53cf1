"""One client: reads its requests, begins calls and writes replies, without a task for each call."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, cast

from venvd_contract.commands import ATTACH, COMMANDS
from venvd_contract.errors import Busy, InvalidRequest, Unauthenticated, Unavailable, VenvdError
from venvd_contract.venvs import PASSED_ON
from venvd_core import float_arrays
from venvd_core.backend import CANCEL, Call, Reply
from venvd_http.admission import count_unread
from venvd_http.auth import Caller, WrongToken
from venvd_pipe_backend import arrays, compat, handover, peers
from venvd_pipe_backend.host import Host
from venvd_pipe_backend.messages import SMALL, Gate, MalformedError, Message, Reader, decode
from venvd_pipe_backend.output import Output
from venvd_pipe_backend.replies import Order, Turn, answer, event, failure, head, outcome

log = logging.getLogger(__name__)

SPECIAL_COMMANDS = frozenset({ATTACH, *arrays.COMMANDS, *PASSED_ON})
"""Commands that need more than a call."""
OPEN_COMMANDS = frozenset(command.name for command in COMMANDS if command.open)
LINGER_SECONDS = 5.0
"""Seconds for a peer to read the last reply before the server closes the connection."""
LINGER_BYTES = 64 << 20
"""Bytes that it may still send in this time."""


class PipeConnection(asyncio.Protocol):
    """The protocol of one connected socket."""

    peer = ""
    """The peer to which the connection counts until it is accepted."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host, self._backend, self._settings = host, host.backend, host.settings
        self._loop = loop
        mark = compat.BYTE_ORDER_MARK if self._settings.compat else b""
        self._reader = Reader(self._settings.max_body, self._settings.max_attachment_bytes, mark)
        if not host.guard.open:
            self._reader.gate = Gate(host.admission.limits.bytes, self._check_early)
        self._calls: dict[Call | asyncio.Task[Reply | None], int] = {}
        """The running calls, with the bytes of their requests."""
        self._on_done = self._on_call_done
        self._max_pipelined = self._settings.max_pipelined
        self._running_bytes = 0
        self._held = 0
        """The share of this connection in the host's `held`."""
        self._shared = arrays.SharedSegments()
        self._array_input: arrays.ArrayInput | None = None
        self._authenticated = False
        self._token: str | None = None
        self._caller = Caller()
        self._first = True
        self._handover: asyncio.Task[None] | None = None
        self._delayed = False
        """Whether the refusal of a wrong token delays further requests."""
        self._paused = False
        self._closing = False
        """Whether the connection reads no further request."""
        self._peer_ended = False
        self._lost = False
        """Whether the connection writes no further reply."""
        self._linger_until = 0.0
        self._lingered_bytes = 0
        self._received_at = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._output = Output(self._transport, self._settings.max_unread_bytes, self.abort)
        self._order = Order(self._output.write)
        peer = transport.get_extra_info("socket")
        self._descriptor = peer.fileno()
        self.peer = f"unix:{peers.read_user_id(peer)}"
        self._caller = Caller(self.peer)
        try:
            self._host.admit(self, peer)
        except VenvdError as error:
            self._output.write(failure(head(b""), error))
            self.end_requests()
            if not self._host.keep_refused(self):
                self._transport.close()
            return
        self._host.hangups.watch(self._descriptor, self._on_hangup)

    def data_received(self, data: bytes) -> None:
        # everything else that delays requests also pauses the reading
        if self._closing or self._output.congested or self._array_input or len(self._calls) >= self._max_pipelined:
            self._feed(data)
            return
        message = self._reader.alone(data)
        if message is None:
            self._feed(data)
            return
        self._begin(message)
        if self._running_bytes > SMALL:
            self._update_held()

    def _feed(self, data: bytes) -> None:
        if self._closing:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES:
                self._transport.abort()
            return
        self._received_at = self._loop.time()
        array_input = self._array_input
        if (
            array_input is not None
            and array_input.accepting
            and not self._reader.held
            and len(data) < array_input.remaining
        ):
            array_input.feed(data)
            return
        limit = self._settings.max_held_bytes
        if self._host.held + len(data) > limit and self._held + len(data) > SMALL:
            self._refuse(Busy(f"all requests together are larger than the limit of {limit} bytes"))
            return
        self._reader.feed(data)
        self.resume_requests()

    def eof_received(self) -> bool:
        self._peer_ended = True
        if peers.hung_up(self._descriptor):
            self.abort()
        elif self._closing:
            self._close_if_done()
        else:
            self.resume_requests()
        return True

    def pause_writing(self) -> None:
        self._output.pause()

    def resume_writing(self) -> None:
        self._output.resume()
        self.resume_requests()

    def connection_lost(self, _error: Exception | None) -> None:
        self._lost = self._closing = True
        self._use(Caller())
        self._host.hangups.unwatch(self._descriptor, self._on_hangup)
        self._host.remove(self)
        self._host.held -= self._held
        self._held = 0
        self._output.close()
        self._cancel_calls()
        self._shared.close()
        if self._handover is not None:
            self._handover.cancel()

    # ---- requests ----------------------------------------------------------------------------------------------

    def resume_requests(self) -> None:
        """Begin every complete request, unless the client leaves too many replies unread."""
        if self._lost:
            return
        while not self._closing and self._handover is None and not self._delayed:
            if self._array_input is not None and not self._fill(self._array_input):
                break
            if self._output.congested or len(self._calls) >= self._max_pipelined:
                self._pause_reading()
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
                    self.end_requests()
                continue
            if message is not None:
                self._begin(message)
            elif self._peer_ended:
                self.end_requests()
            else:
                self._resume_reading()
                break
        self._update_held()

    def _fill(self, array_input: arrays.ArrayInput) -> bool:
        """Pass on the received bytes of an array; return whether the array is complete."""
        if not array_input.accepting:
            self._pause_reading()
            return False
        array_input.feed(self._reader.raw(array_input.remaining))
        if array_input.remaining and not self._peer_ended:
            self._resume_reading()
            return False
        if array_input.remaining:
            size = array_input.size
            came = size - array_input.remaining
            wrong = InvalidRequest(f"the array ended after {came} of the {size} bytes that were announced")
            array_input.fail(wrong)
        self._array_input = None
        return True

    def _resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused and not self._peer_ended:
            self._paused = True
            self._transport.pause_reading()

    def _begin(self, message: Message) -> None:
        special = message.token is not None or not self._authenticated or message.command in SPECIAL_COMMANDS
        if special and self._handle_special(message):
            return
        message.caller = self._caller
        turn, on_done = None, self._on_done
        if not message.tag:
            turn = self._order.turn()
            on_done = partial(self._on_call_done, turn=turn)
        call = Call(message, on_done)
        if message.command == CANCEL:
            call.find_call = self._find_call
        if message.stream:
            call.on_event = partial(self._on_event, head(message.tag), turn)
        size = self._calls[call] = self._reader.size
        self._running_bytes += size
        self._backend.begin(call)

    def _handle_special(self, message: Message) -> bool:
        """Check the token, and begin a command of `SPECIAL_COMMANDS`; return whether the message needs nothing more."""
        first, self._first = self._first, False
        try:
            self._authenticate(message)
            if message.command == ATTACH:
                self._attach(message, first=first)
        except WrongToken as error:
            self._delay(message.tag, error)
            return True
        except VenvdError as error:
            self._answer(message.tag, error)
            return True
        if message.command in arrays.COMMANDS:
            message.caller = self._caller
            self._begin_array(message)
        elif message.command in PASSED_ON:
            message.token = self._token
            return False
        return message.command in SPECIAL_COMMANDS

    def _authenticate(self, message: Message) -> None:
        if self._host.guard.open:
            self._host.admission.leave(self, self.peer)
        if message.token is None and (self._authenticated or message.command in OPEN_COMMANDS):
            return
        try:
            self._use(self._host.guard.admit(message.token, self._caller.peer))
        except Unauthenticated as error:
            if message.token is None:
                raise Unauthenticated(f'{error.message}: send it once as the field "token"') from None
            raise
        self._authenticated, self._token = True, message.token
        self._host.admission.leave(self, self.peer)
        self._reader.gate = None

    def _check_early(self, token: str | None) -> None:
        """Check a token before its request is complete."""
        self._host.guard.admit(token, self._caller.peer)
        self._host.admission.leave(self, self.peer)

    def _delay(self, tag: bytes, error: WrongToken) -> None:
        """Delay the refusal of a wrong token, and read nothing until then."""

        def answer() -> None:
            self._delayed = False
            if not self._lost:
                self._answer(tag, error)
                self.resume_requests()

        self._delayed = True
        self._pause_reading()
        self._loop.call_later(error.delay, answer)

    def _use(self, caller: Caller) -> None:
        """Tie the connection to the key that its client sent last."""
        before, self._caller = self._caller.key, caller
        if caller.key is before:
            return
        if before is not None:
            before.unwatch(self._on_key_end)
        if caller.key is not None:
            caller.key.watch(self._on_key_end)

    def _on_key_end(self) -> None:
        """Send that the key has ended, and close the connection; running calls end as if the client disconnected."""
        key = self._caller.key
        if key is None or self._lost or self._handover is not None:
            return  # the session's `DirectClients` end a connection that was handed over
        self._end_with(key.error())

    def has_unread(self) -> bool:
        return count_unread(self._descriptor) > 0

    def drop(self, reason: str) -> None:
        self._end_with(Unavailable(reason))

    def _end_with(self, error: VenvdError) -> None:
        self._output.write(failure(head(b""), error))  # does not wait for earlier replies
        self._lost = self._closing = True
        self._cancel_calls()
        self._transport.close()

    def _begin_array(self, message: Message) -> None:
        turn = None if message.tag else self._order.turn()
        behind = self._reader.behind if message.attachments else None
        self._array_input = None if behind is None else arrays.ArrayInput(behind)
        request = arrays.ArrayRequest(
            message,
            turn,
            self._array_input,
            backend=self._backend,
            requests=self,
            output=self._output,
            shared=self._shared,
        )
        task = self._loop.create_task(request.run())
        self._calls[task] = self._reader.size
        self._running_bytes += self._reader.size
        task.add_done_callback(partial(self._on_array_done, head(message.tag), turn))

    def _find_call(self, identity: Any) -> Call | None:
        """Find the running call of this connection whose request had that ID."""
        tagged = (call for call in (*self._calls, *self._shared.calls) if isinstance(call, Call) and call.request.tag)
        return next((call for call in tagged if decode(call.request.tag) == identity), None)

    def _attach(self, message: Message, *, first: bool) -> None:
        if not first:
            raise InvalidRequest(f"{ATTACH} must be the first line of a connection: open another one for it")
        session = handover.session_of(message)
        self._pause_reading()
        self._handover = self._loop.create_task(self._hand_over(session, message.tag))

    async def _hand_over(self, session: str | None, identity: bytes) -> None:
        """Give the connection to the session, with the bytes that were read after the first line."""
        rest = self._reader.rest()
        client = handover.direct_client(self._descriptor, rest, identity, self._settings, self._caller)
        try:
            await self._backend.attach(session, client)
        except VenvdError as error:
            client.sock.close()
            self._handover = None
            if self._caller.key is not None and self._caller.key.ended:
                self._on_key_end()  # it ended during the handover
                return
            self._reader.feed(rest)
            self._answer(identity, error)
            self.resume_requests()
        else:
            # do this before the connection closes: epoll cannot drop a closed descriptor that has a duplicate
            self._host.hangups.unwatch(self._descriptor, self._on_hangup)
            self.abort()

    # ---- replies -----------------------------------------------------------------------------------------------

    def _on_call_done(self, call: Call, turn: Turn | None = None) -> None:
        self._running_bytes -= self._calls.pop(call)
        if call.request.command in float_arrays.COMMANDS and self._take_float_array(call, turn):
            return
        if self._lost:
            return
        line = answer(call)
        output = self._output
        if turn is not None:
            turn.end(line)
        elif output.blocked:
            output.write(line)
        else:  # the code of `Output.write`, as a function call would slow down every call
            output.written += len(line)
            self._transport.write(line)
        if self._paused or self._closing or self._held or self._running_bytes > SMALL:
            self._go_on()

    def _take_float_array(self, call: Call, turn: Turn | None) -> bool:
        """Begin to write a float array with its text in a segment; return whether the call needs nothing more."""
        if self._lost or call.reply is None or not float_arrays.is_apart(call.reply):
            float_arrays.discard(call)
            return self._lost
        task = self._loop.create_task(arrays.write_text(call, turn, self, self._output))
        self._calls[task] = 0
        task.add_done_callback(partial(self._on_array_done, head(call.request.tag), turn))
        return True

    def _on_array_done(self, begin: bytes, turn: Turn | None, task: asyncio.Task[Reply | None]) -> None:
        self._running_bytes -= self._calls.pop(task)
        line = outcome(begin, task)
        if self._lost:
            return
        if turn is None:
            self._output.write(line)
        else:
            turn.end(line)
        self._go_on()

    def _go_on(self) -> None:
        if self._paused:
            self.resume_requests()
        elif self._closing:
            self._close_if_done()
        elif self._held or self._running_bytes > SMALL:
            self._update_held()

    def _on_event(self, begin: bytes, turn: Turn | None, kind: str, data: bytes) -> None:
        if not self._lost:
            (self._output.write if turn is None else turn.write)(event(begin, kind, data))

    def _answer(self, identity: bytes, error: VenvdError) -> None:
        line = failure(head(identity), error)
        if identity:
            self._output.write(line)
        else:
            self._order.turn().end(line)

    # ---- the end -----------------------------------------------------------------------------------------------

    def _refuse(self, error: VenvdError) -> None:
        """End the requests with an error, which is also the answer to an unfinished upload of an array."""
        if self._array_input is not None:
            array_input, self._array_input = self._array_input, None
            array_input.fail(error)
        else:
            self._answer(b"", error)
        self.end_requests()

    def end_requests(self) -> None:
        """Read no further request; close after the replies of the running calls."""
        if self._closing:
            return
        self._closing = True
        self._reader = Reader(0, 0)
        self._resume_reading()  # to notice that the peer disconnects
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._calls or self._lost:
            return
        if self._peer_ended:
            self._transport.close()
        elif not self._linger_until:
            # closing a socket with unread bytes loses the reply if the peer still sends
            self._linger_until = self._loop.time() + LINGER_SECONDS
            self._transport.write_eof()

    def _on_hangup(self) -> None:
        # reading delivers the bytes that the peer sent before, and then the end
        if self._paused or self._peer_ended:
            self.abort()

    def abort(self) -> None:
        """Close at once; replies of running calls are dropped."""
        self._lost = self._closing = True
        self._output.close()
        self._cancel_calls()
        self._transport.abort()

    def _cancel_calls(self) -> None:
        if self._settings.cancel_on_disconnect:
            for call in list(self._calls):
                call.cancel()

    @property
    def busy(self) -> bool:
        """Whether calls run, or replies are still in this process."""
        return bool(self._calls or self._output.unread)

    def _update_held(self) -> None:
        held = self._running_bytes + self._reader.held
        self._host.held += held - self._held
        self._held = held

    def check_stall(self, now: float) -> None:
        """End the connection of a peer that has stalled for too long; the server calls this every few seconds."""
        limit = self._settings.stall_timeout
        if self._output.find_stall(now) > limit:
            log.warning("a client has not read its replies for %g s", limit)
            self.abort()
        elif self._linger_until:
            if now > self._linger_until:
                self._transport.abort()
        elif self._closing:
            return
        elif (self._reader.midway or self._array_input) and not self._paused and now - self._received_at > limit:
            self._refuse(InvalidRequest(f"the rest of a request did not arrive within {limit:g} s"))
