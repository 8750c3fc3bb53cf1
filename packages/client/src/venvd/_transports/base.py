"""Calls, and the interface of transports: a transport carries a `Call` to a backend and returns the decoded reply."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from venvd._net.deadlines import LATE
from venvd._net.endpoint import Endpoint, Exchange, Reader
from venvd._objects import Upload
from venvd.errors import BadReply, DeadlineExceeded
from venvd_contract.arrays import Header
from venvd_contract.commands import SESSION_COMMANDS

T = TypeVar("T")

NO_DEADLINE = math.inf
"""The timeout of a call that may run for as long as its session lives."""
_LONGEST_TIMEOUT = 365 * 86400.0
"""Seconds that stand for no deadline: the longest timeout that servers accept."""


class Kind(Generic[T]):
    """What the calls of one command to one session have in common.

    Attributes:
        command: the name of the command in `venvd_contract.commands`.
        decode: makes the caller's value from the reply's JSON.
        session: the session's name or ID. None means `default`.
        timeout: seconds for calls that name no timeout. None means the backend's default.
        lease: seconds for which an unused handle of the call lives, 0 for no end. None means the backend's default.
        repeatable: whether the client may send the call twice.
        direct: whether the session answers the call, rather than the server.
        opening: the beginning of the call's line over a pipe.
    """

    __slots__ = ("command", "decode", "direct", "lease", "opening", "repeatable", "session", "timeout")

    def __init__(
        self,
        command: str,
        decode: Callable[[Any], T],
        session: str | None = None,
        *,
        timeout: float | None = None,
        lease: float | None = None,
        repeatable: bool = False,
    ) -> None:
        self.command = command
        self.decode = decode
        self.session = session
        self.timeout = timeout
        self.lease = lease
        self.repeatable = repeatable
        self.direct = command in SESSION_COMMANDS
        self.opening = f'{{"id":1,"command":"{command}"'
        if lease is not None:
            self.opening += f',"lease":{float(lease)!r}'


class Call(Generic[T]):
    """One call of a command.

    Attributes:
        kind: what the call shares with other calls of the command.
        payload: the JSON of the request.
        timeout: seconds that the call may run, `NO_DEADLINE` for no limit. None means the backend's default.
        body: bytes beside the JSON of the request. A codec puts the bytes of a reply into its JSON as `attached`.
        received: the size of the reply in bytes, once it has come.
        uploads: what the client must send before the call.

    Raises:
        DeadlineExceeded: the timeout is not greater than zero.
    """

    __slots__ = ("body", "kind", "payload", "received", "timeout", "uploads")

    def __init__(
        self, kind: Kind[T], payload: dict[str, Any], timeout: float | None = None, body: bytes | None = None
    ) -> None:
        if timeout is None:
            timeout = kind.timeout
        if timeout is not None and not timeout > 0:
            raise DeadlineExceeded(f"{kind.command}: the timeout of {timeout:g} s has passed before the call began")
        self.kind = kind
        self.payload = payload
        self.timeout = _LONGEST_TIMEOUT if timeout == NO_DEADLINE else timeout
        self.body = body
        self.received = 0
        self.uploads: Sequence[Upload] = ()

    @property
    def command(self) -> str:
        return self.kind.command

    @property
    def session(self) -> str | None:
        return self.kind.session

    @property
    def lease(self) -> float | None:
        return self.kind.lease

    @property
    def repeatable(self) -> bool:
        return self.kind.repeatable

    @property
    def wait_seconds(self) -> float | None:
        """Seconds that the client waits for the reply, or None."""
        return None if self.timeout is None else self.timeout + LATE

    def finish(self, result: Any) -> T:
        """Return the caller's value.

        Raises:
            BadReply: the reply does not have the documented shape.
        """
        try:
            return self.kind.decode(result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadReply(f"{self.command}: the reply has an unexpected shape: {error!r}") from None


@dataclass(slots=True)
class Event:
    """One event of a running call.

    Attributes:
        kind: `stdout`, `stderr`, `display`, `progress`, or `result`, which comes once and last.
        data: text for `stdout` and `stderr`, a MIME bundle for `display`, an `Output` for `result`.
    """

    kind: str
    data: Any


class Run(Protocol):
    def __call__(self, call: Call[T], /) -> T:
        """Send one call and return its decoded reply, or raise the error that the backend answered."""


class AsyncRun(Protocol):
    def __call__(self, call: Call[T], /) -> Coroutine[Any, Any, T]:
        """Send one call and return its decoded reply, or raise the error that the backend answered."""


class Transport(Protocol):
    url: str

    def call(self, call: Call[T], /) -> T:
        """Send one call and return its decoded reply, or raise the error that the backend answered."""

    def stream(self, call: Call[Any]) -> Generator[Event, None, None]:
        """Send one call and yield its events. The last is `result`. Closing the iterator cancels the call."""

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        """Fetch an array: its header, and an object that contains its bytes.

        The object's memory is writable and belongs only to the caller. `call` is an `array.get`.
        """

    def put_array(self, call: Call[T], data: memoryview) -> T:
        """Send the bytes of an array. `call` is an `array.put` with dtype, shape and order."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """A transport for an event loop."""

    url: str

    async def call(self, call: Call[T], /) -> T: ...

    def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]: ...

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]: ...

    async def put_array(self, call: Call[T], data: memoryview) -> T: ...

    async def close(self) -> None: ...


class ReplyReader(Reader, Protocol):
    def events(self) -> list[Event]:
        """Return the events that came since the last call, or raise the error that the backend answered."""

    def result(self) -> Any:
        """Return the reply's JSON, or raise the error that the backend answered."""

    def count_bytes(self) -> int:
        """Return the size of the reply in bytes."""


class Codec(Protocol):
    """How one scheme encodes calls and decodes replies. Knows no socket."""

    endpoint: Endpoint

    def __init__(self, endpoint: Endpoint, token: str | None) -> None: ...

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, ReplyReader]:
        """Encode a call, and return its bytes with the reader of its reply."""
