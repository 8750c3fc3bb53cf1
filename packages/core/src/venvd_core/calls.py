"""One call: what a transport asks for, and what it comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from venvd_contract.errors import VenvdError

if TYPE_CHECKING:
    from venvd_core.process import Process

OnEvent = Callable[[str, Any], None]
Nearby = Callable[[Any], "Call | None"]


class Request(msgspec.Struct, eq=False):
    """What a transport asks for.

    Attributes:
        command: the name of a command.
        payload: a JSON object, not parsed; a `msgspec.Raw` is part of a line that is known to be JSON in UTF-8.
        session: null is `default`.
        timeout: seconds; null is the backend's default.
        values: `plain`, which null is, or `tagged`.
        attachments: what stands behind the line on the pipe.
        name: what the client calls it, so that `cancel` can end it from anywhere.
        tag: the request's ID on its connection, as JSON.
        lease: seconds after which handles that the call makes are freed unless they are used.
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


class Reply(msgspec.Struct, eq=False):
    """What a call came to: `result` is JSON, checked to be JSON."""

    result: bytes
    attachments: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.result) + (sum(map(len, self.attachments)) if self.attachments else 0)


class Owner(Protocol):
    """Who runs a call."""

    def abandoned(self, call: Call) -> None:
        """Nobody waits for the call any more."""

    def stop(self, call: Call) -> None:
        """End the call; who waits for it is answered as soon as it has ended."""


class Call:
    """A call, from its arrival to its end; one that is cancelled ends with neither `reply` nor `error`.

    It can be asked, awaited and cancelled as a future can, but is none: of nearly every call one is told by `told`, at
    the very moment and without a turn of the loop, and a future would cost it more than all the rest here.

    Attributes:
        request: what is asked for.
        told: called when the call is over, at that very moment.
        on_event: called with each `stdout`, `stderr`, `display` and `progress`, where the call streams.
        nearby: finds a call of the same connection by its tag.
        preliminary: whether another call follows that counts for both.
        began: when it came; `time.monotonic`, as all times here.
        deadline: when its time is over.
        terms: what the session is asked for beside the payload: `wire.terms`.
        payload: that of the request, checked to be a JSON object on one line.
        owner: who runs it.
        sent: when it left the queue; 0 before.
        process: who it was sent to.
        stop: why it is being stopped: `timeout` or `cancelled`.
        counted: whether its end was measured though nothing was answered yet.
        over: whether it has ended.
    """

    __slots__ = (
        "began", "counted", "deadline", "error", "nearby", "on_event", "over", "owner", "payload", "preliminary",
        "process", "reply", "request", "sent", "stop", "terms", "told", "waiting",
    )  # fmt: skip
    # set where it begins
    began: float
    deadline: float
    terms: bytes
    payload: bytes

    def __init__(
        self,
        request: Request,
        told: Callable[[Call], None] | None = None,
        on_event: OnEvent | None = None,
        nearby: Nearby | None = None,
        preliminary: bool = False,
    ) -> None:
        self.request = request
        self.told = told
        self.on_event = on_event
        self.nearby = nearby
        self.preliminary = preliminary
        self.sent = 0.0
        self.owner: Owner | None = None
        self.process: Process | None = None
        self.stop: str | None = None
        self.counted = self.over = False
        self.reply: Reply | None = None
        self.error: VenvdError | None = None
        self.waiting: Waiting | None = None

    def done(self) -> bool:
        return self.over

    def cancelled(self) -> bool:
        return self.over and self.reply is None and self.error is None

    def exception(self) -> VenvdError | None:
        """Raises:
        asyncio.CancelledError: it was cancelled.
        """
        if self.cancelled():
            raise asyncio.CancelledError
        return self.error

    def result(self) -> Reply:
        """Raises:
        VenvdError: the call failed.
        asyncio.CancelledError: it was cancelled.
        """
        if self.error is not None:
            raise self.error
        if self.reply is None:
            raise asyncio.CancelledError if self.over else asyncio.InvalidStateError
        return self.reply

    def end(self, reply: Reply | None, error: VenvdError | None = None) -> None:
        """The call is over; one that is not cancelled has either."""
        self.reply = reply
        self.error = error
        self.over = True
        if self.told is not None:
            try:
                self.told(self)
            except Exception as wrong:  # noqa: BLE001 — what goes wrong on one connection is not the session's affair
                context = {"message": "who waited for a call", "exception": wrong}
                asyncio.get_running_loop().call_exception_handler(context)
        if self.waiting is not None:
            self.waiting.conclude()

    def cancel(self) -> bool:
        """End the call, since nobody wants to know what it comes to; whether it had not ended."""
        if self.over:
            return False
        self.over = True
        if self.owner is not None:
            self.owner.abandoned(self)
        self.end(None)
        return True

    def add_done_callback(self, told: Callable[[Call], object]) -> None:
        """Have `told` called when the call is over, a turn of the loop later."""
        self.future().add_done_callback(lambda _: told(self))

    def future(self) -> Waiting:
        """What stands for the call where a future is needed; cancelling it cancels the call."""
        if self.waiting is None:
            self.waiting = Waiting(self)
            if self.over:
                self.waiting.conclude()
        return self.waiting

    def __await__(self) -> Generator[Any, None, Reply]:
        return self.future().__await__()


class Waiting(asyncio.Future[Reply]):
    """The future of a call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 — who cancels says nothing that the call could use
        return self._call.cancel()

    def conclude(self) -> None:
        """The call is over."""
        call = self._call
        if self.done():
            return
        if call.error is not None:
            self.set_exception(call.error)
            self.exception()  # it counts as seen: who was told of the call has seen it
        elif call.reply is not None:
            self.set_result(call.reply)
        else:
            super().cancel()
