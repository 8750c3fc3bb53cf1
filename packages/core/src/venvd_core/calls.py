"""One call: the request of a client, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import msgspec

from venvd_contract.errors import VenvdError
from venvd_core.callers import Caller
from venvd_core.segments import Segments

OnEvent = Callable[[str, bytes], None]
"""Takes the name of an event and its data, which is JSON in UTF-8 on one line."""
FindCall = Callable[[Any], "Call | None"]


class Request(msgspec.Struct, eq=False):
    """The request of a client.

    Attributes:
        command: the name of a command.
        payload: a JSON object, not parsed; a `msgspec.Raw` is part of a line that was checked to be JSON in UTF-8.
        session: None is `default`.
        timeout: seconds; None is the backend's default.
        values: `plain` or `tagged`; None is `plain`.
        attachments: the bytes behind the line.
        name: the client's name for the call; `cancel` finds the call by it from any connection.
        tag: the request's ID on its connection, as JSON.
        lease: seconds after which the session frees unused handles of the call; None is the backend's default, 0 is
            never.
        token: the token that the client sent; only the commands of `PASSED_ON` need it.
        caller: the sender.
    """

    command: str
    payload: bytes = b"{}"
    session: str | None = None
    timeout: float | None = None
    values: str | None = None
    attachments: Sequence[bytes] | None = None
    name: str | None = None
    tag: bytes = b""
    lease: float | None = None
    token: str | None = None
    caller: Caller | None = None


def options_of(request: Request, *, stream: bool = False) -> bytes:
    """Write the fields between the ID and the payload of a request to a session; the server keeps the deadline."""
    options = b',"command":"%b"' % request.command.encode()
    if request.values == "tagged":
        options += b',"values":"tagged"'
    if stream:
        options += b',"stream":true'
    if request.lease is not None:
        options += b',"lease":%r' % request.lease
    if request.attachments:
        options += b',"attachments":[%b]' % b",".join(b"%d" % len(part) for part in request.attachments)
    return options + b',"payload":'


class Reply(msgspec.Struct, eq=False):
    """The result of a call: valid JSON, and its attachments."""

    result: bytes
    attachments: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """Bytes of the result and its attachments."""
        return len(self.result) + (sum(map(len, self.attachments)) if self.attachments else 0)


class Runner(Protocol):
    """Runs a call: a session, or the server itself."""

    def abandon(self, call: Call) -> None:
        """Stop a call whose client no longer waits."""

    def stop(self, call: Call) -> None:
        """Stop a call; its client gets the answer as soon as the call has ended."""


class Call:
    """A call, from its arrival to its end; a cancelled one ends with neither `reply` nor `error`.

    It has the methods of a future, but is none: it calls `on_done` at once, without a turn of the event loop. A future
    would take longer than all other code in this class.

    Attributes:
        request: the fields of the request.
        on_done: called as soon as the call has ended.
        on_event: called with each `stdout`, `stderr`, `display` and `progress`; None if the call does not stream.
        find_call: finds a call of the same connection by its tag.
        preliminary: whether a second call follows, and the metrics count only that one.
        received_at: time of arrival; `time.monotonic`, as for all times here.
        deadline: time at which the server stops the call.
        options: the fields from `options_of`.
        payload: the payload of the request, checked to be a JSON object on one line.
        runner: the session or the server's own task; None before it runs.
        sent_at: time at which it left the queue; 0 before.
        segments: the shared memory of the process that runs it.
        stop_reason: `timeout` or `cancelled` while the server stops it.
        counted: whether the metrics have counted it.
        ended: whether it has ended.
    """

    __slots__ = (
        "_future", "counted", "deadline", "ended", "error", "find_call", "on_done", "on_event", "options", "payload",
        "preliminary", "received_at", "reply", "request", "runner", "segments", "sent_at", "stop_reason",
    )  # fmt: skip
    # set by `Backend.begin`
    received_at: float
    deadline: float
    options: bytes
    payload: bytes

    def __init__(
        self,
        request: Request,
        on_done: Callable[[Call], None] | None = None,
        on_event: OnEvent | None = None,
        find_call: FindCall | None = None,
        preliminary: bool = False,
    ) -> None:
        self.request = request
        self.on_done = on_done
        self.on_event = on_event
        self.find_call = find_call
        self.preliminary = preliminary
        self.sent_at = 0.0
        self.runner: Runner | None = None
        self.segments: Segments | None = None
        self.stop_reason: str | None = None
        self.counted = self.ended = False
        self.reply: Reply | None = None
        self.error: VenvdError | None = None
        self._future: CallFuture | None = None

    def done(self) -> bool:
        return self.ended

    def cancelled(self) -> bool:
        return self.ended and self.reply is None and self.error is None

    def exception(self) -> VenvdError | None:
        """Return the error, or None after a reply.

        Raises:
            asyncio.CancelledError: the call was cancelled.
        """
        if self.cancelled():
            raise asyncio.CancelledError
        return self.error

    def result(self) -> Reply:
        """Return the reply.

        Raises:
            VenvdError: the call failed.
            asyncio.CancelledError: it was cancelled.
        """
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise asyncio.CancelledError if self.ended else asyncio.InvalidStateError
        return self.reply

    def end(self, reply: Reply | None, error: VenvdError | None = None) -> None:
        """End the call with a reply or an error; with neither it is cancelled."""
        self.reply = reply
        self.error = error
        self.ended = True
        if self.on_done is not None:
            try:
                self.on_done(self)
            except Exception as wrong:  # noqa: BLE001 — a defect of one connection must not end the session
                context = {"message": "the callback of a call failed", "exception": wrong}
                asyncio.get_running_loop().call_exception_handler(context)
        if self._future is not None:
            self._future.conclude()

    def cancel(self) -> bool:
        """Stop the call and end it without an answer; return false if it had ended before."""
        if self.ended:
            return False
        self.ended = True
        if self.runner is not None:
            self.runner.abandon(self)
        self.end(None)
        return True

    def add_done_callback(self, on_done: Callable[[Call], object]) -> None:
        """Call `on_done` in the turn of the event loop after the end of the call."""
        self.future().add_done_callback(lambda _: on_done(self))

    def future(self) -> CallFuture:
        """Return a future of the call; cancelling it cancels the call."""
        if self._future is None:
            self._future = CallFuture(self)
            if self.ended:
                self._future.conclude()
        return self._future

    def __await__(self) -> Generator[Any, None, Reply]:
        return self.future().__await__()


class CallFuture(asyncio.Future[Reply]):
    """The future of a call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 — a call has no use for the message
        return self._call.cancel()

    def conclude(self) -> None:
        """Copy the result of the call."""
        call = self._call
        if self.done():
            return
        if call.error is not None:
            self.set_exception(call.error)
            self.exception()  # marks it as retrieved: `on_done` has seen it
        elif call.reply is not None:
            self.set_result(call.reply)
        else:
            super().cancel()
