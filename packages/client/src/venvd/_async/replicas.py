"""A transport that follows the sessions of a backend to the replicas on which they live."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from venvd._transports.base import AsyncRun, AsyncTransport, Call, Event
from venvd._transports.opening import open_async_transport
from venvd._transports.pipe_transport import AsyncPipeTransport
from venvd.errors import BadReply, Moved, Unreachable
from venvd_contract.arrays import Header
from venvd_contract.resources import Replica

T = TypeVar("T")

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_MOST_MOVES = 4


def locate(url: str, known: str) -> str:
    """Return the address by which this client reaches a replica. Loopback means the machine of the `known` address.

    Raises:
        BadReply: the addresses are not of the same kind.
    """
    given, own = urlsplit(url), urlsplit(known)
    if given.scheme != own.scheme:
        raise BadReply(f'{known} says that a session moved to "{url[:200]}", an address of another kind')
    if given.hostname not in _LOOPBACK or given.port is None or own.hostname in _LOOPBACK:
        return url
    host = own.netloc if own.port is None else own.netloc.rpartition(":")[0]
    return f"{given.scheme}://{host}:{given.port}"


class AsyncReplicaList(Protocol):
    """Lists the replicas of a backend with their sessions: the controller's answer."""

    async def __call__(self) -> Sequence[Replica]: ...


class AsyncReplicaTransport:
    """Carries calls to one replica. If an error says that a session lives on another one, it carries the calls there.

    A server that refuses a call with `Moved` has done nothing yet. So the client may send each such call again.

    Attributes:
        call: sends one call and returns its decoded reply.
    """

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        self.url = url
        self._token = token
        self._ca = ca
        self._main = open_async_transport(url, token, ca)
        self._send = self._main.call
        self.call: AsyncRun = self._call
        if isinstance(self._main, AsyncPipeTransport):  # calls that a session answers directly skip this class
            self._send, self.call = self._main.replace_server_call(self._call), self._main.call
        self._others: dict[str, AsyncTransport] = {}
        """The transports to other replicas, by URL."""
        self._homes: dict[str | None, AsyncTransport] = {}
        """The transports of sessions that live on other replicas, by session."""
        self._lock = threading.Lock()

    def find_replica(self, url: str) -> AsyncTransport:
        """Return the transport to the replica at `url`.

        Raises:
            BadReply: `url` is not an address of the same kind.
        """
        url = locate(url, self.url)
        if url == self.url:
            return self._main
        with self._lock:
            transport = self._others.get(url)
            if transport is None:
                transport = self._others[url] = open_async_transport(url, self._token, self._ca)
            return transport

    async def _call(self, call: Call[T]) -> T:
        home = self._homes.get(call.kind.session) if self._homes else None
        try:
            return await (self._send(call) if home is None else home.call(call))
        except Moved as moved:
            result: T = await self._repeat("call", moved, call)
            return result
        except Unreachable:
            self._homes.pop(call.kind.session, None)  # the next call asks where the session lives now
            raise

    async def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        """Send one call and yield its events."""
        transport = self._homes.get(call.session, self._main)
        for _ in range(_MOST_MOVES):
            moved: Moved | None = None
            try:
                async with aclosing(transport.stream(call)) as events:
                    async for event in events:
                        yield event
            except Moved as error:
                moved = error
            if moved is None:
                return
            transport = self._follow(call, moved)
        raise BadReply(f"the replicas of {self.url} send each other the session {call.session}")

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        """Fetch an array."""
        try:
            return await self._homes.get(call.session, self._main).get_array(call)
        except Moved as moved:
            array: tuple[Header, Any] = await self._repeat("get_array", moved, call)
            return array

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        """Send the bytes of an array."""
        try:
            return await self._homes.get(call.session, self._main).put_array(call, data)
        except Moved as moved:
            result: T = await self._repeat("put_array", moved, call, data)
            return result

    def _follow(self, call: Call[Any], moved: Moved) -> AsyncTransport:
        transport = self.find_replica(moved.url)
        if transport is self._main:
            self._homes.pop(call.session, None)
        elif call.session is not None or call.kind.direct:
            self._homes[call.session] = transport
        return transport

    async def _repeat(self, method: str, moved: Moved, call: Call[Any], *rest: Any) -> Any:
        for _ in range(_MOST_MOVES):
            try:
                transport = self._follow(call, moved)
                send = self._send if method == "call" and transport is self._main else getattr(transport, method)
                return await send(call, *rest)
            except Moved as again:
                moved = again
        raise BadReply(f"the replicas of {self.url} send each other the session {call.session}")

    async def close(self) -> None:
        """Close the connections to all replicas."""
        await self._main.close()
        for transport in self._others.values():
            await transport.close()
