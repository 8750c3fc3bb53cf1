"""What a transport is: it carries a `Call` to a backend and brings the reply back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from venvd.errors import BadReply, DeadlineExceeded
from venvd.net.endpoint import Endpoint, Exchange, Reader
from venvd_contract.arrays import Header
from venvd_contract.commands import BY_NAME

T = TypeVar("T")

DEADLINE_SLACK = 5.0
"""Seconds that the client waits beyond a call's timeout: the server's grace, and the way back."""


_DIRECT = frozenset(name for name, command in BY_NAME.items() if command.served_by == "session")


class Kind(Generic[T]):
    """What the calls of one command to one session have in common.

    Attributes:
        command: as in `venvd_contract.commands`.
        decode: makes the caller's value of the reply's JSON.
        session: null is the session `default`.
        timeout: seconds for calls that name none; null is the backend's default.
        lease: seconds for which handles that the call makes live unless they are used; null is as long as the session.
        repeatable: whether sending it twice does no harm.
        direct: whether it is the session that answers, rather than the server.
        opening: how the lines of such calls begin.
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
        self.direct = command in _DIRECT
        self.opening = f'{{"id":1,"command":"{command}"'
        if lease is not None:
            self.opening += f',"lease":{float(lease)!r}'


class Call(Generic[T]):
    """One operation: what is asked, and how the reply becomes what the caller gets.

    Attributes:
        kind: what it has in common with others.
        payload: the JSON of the request.
        timeout: seconds that the call may run; null is the backend's default.
        body: bytes that the request carries beside its JSON. Those of a reply stand in its JSON as `attached`.
        received: bytes of the reply, once it is there.

    Raises:
        DeadlineExceeded: the timeout is none that can be kept.
    """

    __slots__ = ("body", "kind", "payload", "received", "timeout")

    def __init__(
        self, kind: Kind[T], payload: dict[str, Any], timeout: float | None = None, body: bytes | None = None
    ) -> None:
        if timeout is None:
            timeout = kind.timeout
        if timeout is not None and not timeout > 0:
            raise DeadlineExceeded(f"{kind.command}: the timeout of {timeout:g} s has passed before the call began")
        self.kind = kind
        self.payload = payload
        self.timeout = timeout
        self.body = body
        self.received = 0

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
    def patience(self) -> float | None:
        """Seconds that the client waits."""
        return None if self.timeout is None else self.timeout + DEADLINE_SLACK

    def finish(self, result: Any) -> T:
        """The caller's value.

        Raises:
            BadReply: the reply has not the shape that the contract says.
        """
        try:
            return self.kind.decode(result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadReply(f"{self.command}: the reply has not the shape of the contract: {error!r}") from None


@dataclass(slots=True)
class Event:
    """What a running call tells: `kind` is `stdout`, `stderr` (data: text), `display` (a MIME bundle), `progress`,
    or, once and last, `result` (the `Output`).
    """

    kind: str
    data: Any


class Run(Protocol):
    def __call__(self, call: Call[T], /) -> T:
        """Send one call and wait for its reply; raises the error that the backend answered."""


class Transport(Protocol):
    url: str

    def call(self, call: Call[T], /) -> T:
        """Send one call and wait for its reply; raises the error that the backend answered."""

    def stream(self, call: Call[Any]) -> Iterator[Event]:
        """Send one call and yield its events; the last is `result`. Closing the iterator cancels the call."""

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        """Fetch an array: its header and its bytes, as an object whose memory can be written and is the caller's alone.

        `call` is an `array.get`, which decodes what the contract calls an *array*.
        """

    def put_array(self, call: Call[T], data: memoryview) -> T:
        """Send the bytes of an array; `call` is an `array.put` with dtype, shape and order."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    url: str

    async def call(self, call: Call[T]) -> T: ...

    def stream(self, call: Call[Any]) -> AsyncIterator[Event]: ...

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]: ...

    async def put_array(self, call: Call[T], data: memoryview) -> T: ...

    async def close(self) -> None: ...


class ReplyReader(Reader, Protocol):
    def events(self) -> list[Event]:
        """Events that came since the last time; raises the error that the backend answered."""

    def result(self) -> Any:
        """The reply's JSON; raises the error that the backend answered."""

    def received(self) -> int:
        """Bytes of the reply."""


class Wire(Protocol):
    """How one scheme writes calls and reads replies; knows no socket."""

    endpoint: Endpoint

    def __init__(self, endpoint: Endpoint, token: str | None) -> None: ...

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, ReplyReader]: ...
