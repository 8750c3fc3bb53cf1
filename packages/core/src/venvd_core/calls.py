"""One call: what a transport asks for, what it gets, and the future that stands for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from venvd_core.process import Process

OnEvent = Callable[[str, Any], None]
Nearby = Callable[[Any], "Call | None"]


@dataclass(slots=True)
class Request:
    """What a transport asks for.

    Attributes:
        command: the name of an operation.
        payload: a JSON object, not parsed.
        session: null is `default`.
        timeout: seconds; null is the backend's default.
        values: `plain` or `tagged`.
        attachments: what stands behind the line on the pipe.
        preliminary: another request follows that counts for both.
        on_event: called with each `stdout`, `stderr`, `display` and `progress` of a call that streams.
        name: what the client calls it, so that `cancel` can end it from anywhere.
        tag: the request's ID on its connection, as JSON.
        lease: seconds after which handles that the call makes are freed unless they are used.
        nearby: finds a call of the same connection by its tag.
    """

    command: str
    payload: bytes = b"{}"
    session: str | None = None
    timeout: float | None = None
    values: str = "plain"
    attachments: Sequence[bytes] = ()
    on_event: OnEvent | None = None
    name: str | None = None
    tag: bytes = b""
    lease: float | None = None
    nearby: Nearby | None = None
    preliminary: bool = False


@dataclass(slots=True)
class Reply:
    """What a call came to: `result` is JSON, checked to be JSON."""

    result: bytes
    attachments: Sequence[bytes] = ()


class Owner(Protocol):
    """Who runs a call."""

    def abandoned(self, call: Call) -> None:
        """Nobody waits for the call any more."""

    def stop(self, call: Call) -> None:
        """End the call; who waits for it is answered as soon as it has ended."""


class Call(asyncio.Future[Reply]):
    """The future of a call; cancelling it cancels the call.

    A subclass that overrides `cancel`, because a callback on each future would cost every call a turn of the loop.
    """

    request: Request
    owner: Owner | None = None
    line: bytes = b""
    number: int = 0
    began: float = 0.0
    deadline: float = 0.0
    sent: float = 0.0
    """When it left the queue; `time.monotonic`."""
    process: Process | None = None
    """Who it was sent to."""
    counted: bool = False
    """Whether its end was measured."""
    stop: str | None = None
    """Why it is being stopped: `timeout` or `cancelled`."""
    _told: Callable[[Call], None] | None = None

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.request = request

    def tell(self, told: Callable[[Call], None]) -> None:
        """Have `told` called when the call is over, and at that very moment; one may ask for that.

        A future's own callbacks wait a turn of the loop, with its system calls. Where the call is over already it is
        one of these, so that nobody is told while still asking.
        """
        if self.done():
            self.add_done_callback(told)
        else:
            self._told = told

    def set_result(self, result: Reply) -> None:
        super().set_result(result)
        if self._told is not None:
            self._tell(self._told)

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        super().set_exception(exception)
        if self._told is not None:
            self._tell(self._told)

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        if self.owner is not None:
            self.owner.abandoned(self)
        if self._told is not None:
            self._tell(self._told)
        return True

    def _tell(self, told: Callable[[Call], None]) -> None:
        self._told = None
        try:
            told(self)
        except Exception as error:  # noqa: BLE001 — what goes wrong on one connection is not the session's affair
            self.get_loop().call_exception_handler({"message": "who waited for a call", "exception": error})
