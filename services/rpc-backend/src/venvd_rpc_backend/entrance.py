"""Clients of gRPC without a token: their connections, and the few methods that they may call.

gRPC offers no way to close a connection, and calls a method only after its whole message has arrived. So this module
finds the sockets of the port among those of this process and shuts them down. It refuses calls by their metadata, and
reads the single message of an open method as a stream that it can end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import grpc

from venvd_contract.errors import Busy, DeadlineExceeded, Unavailable, VenvdError
from venvd_http.admission import Admission, AdmissionLimits, name_peer
from venvd_http.proxies import parse_grpc_peer
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend.context import PeerGuard
from venvd_rpc_backend.status import refuse

log = logging.getLogger(__name__)

Handler = Any  # grpc.RpcMethodHandler, or a `UnaryCall`


@dataclass(frozen=True)
class GrpcConnection:
    """A connection of the port: the inode of its socket, its descriptor and its peer, as gRPC writes it.

    Attributes:
        accepted: the peers with accepted tokens; `Entrance` checks it for each connection once a second.
    """

    inode: int
    descriptor: int
    peer: str
    address: str
    accepted: AbstractSet[str] = field(compare=False)

    def has_unread(self) -> bool:
        """Return whether its token was accepted a moment ago; gRPC itself leaves no bytes unread."""
        return self.peer in self.accepted

    def drop(self, _reason: str) -> None:
        """Shut the connection down, if the descriptor still belongs to it."""
        with contextlib.suppress(OSError), _duplicate(self.descriptor) as own:
            if os.fstat(own.fileno()).st_ino == self.inode:
                own.shutdown(socket.SHUT_RDWR)


class Entrance:
    """Applies the limits of `Admission` to clients without an accepted token.

    Attributes:
        guard: checks tokens.
    """

    def __init__(self, guard: PeerGuard, limits: AdmissionLimits) -> None:
        self.guard = guard
        self._limits = limits
        self._admission = Admission(limits)
        self._connections: dict[int, GrpcConnection] = {}
        self._open_calls: Counter[str] = Counter()

    # ---- connections ----

    async def watch(self, port: int) -> None:
        """Close connections to a port of this process that are not accepted in time, until this task is cancelled."""
        pause = min(1.0, self._limits.seconds / 4)
        while True:
            await asyncio.sleep(pause)
            try:
                self._look(port)
            except OSError:
                log.exception("the server cannot list its connections")

    def _look(self, port: int) -> None:
        current: dict[int, GrpcConnection] = {}
        for inode, descriptor in _list_sockets():
            known = self._connections.get(inode) or _identify(inode, descriptor, port, self.guard.accepted)
            if known is not None:
                current[inode] = known
        for inode, connection in current.items():
            if connection.peer in self.guard.accepted:
                self._admission.leave(connection, connection.address)
            elif inode not in self._connections:
                self._admission.enter(connection, connection.address)
        for inode in self._connections.keys() - current.keys():
            gone = self._connections[inode]
            self._admission.leave(gone, gone.address)
        self._connections = current
        self.guard.accepted &= {connection.peer for connection in current.values()}

    # ---- calls ----

    def knows(self, metadata: contexts.Metadata) -> bool:
        """Return whether a call whose message has not arrived has a known token."""
        return contexts.has_known_token(self.guard, metadata)

    async def refuse(self, _requests: Any, context: Any) -> None:
        """Refuse a call before its message arrives; this is the handler of calls with an unknown token."""
        try:
            contexts.authorise(self.guard, contexts.read_metadata(context.invocation_metadata()), context)
            raise Unavailable("the server has just learned this token: send the call again")
        except VenvdError as error:
            await refuse(context, error)

    def limit(self, handler: Handler) -> Handler:
        """Wrap the handler of an open method: limit the time for the message, and the calls of a peer."""

        async def serve(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            try:
                with self._count(name_peer(parse_grpc_peer(context.peer()))):
                    message = await self._read(requests)
                    if self.guard.open:
                        self.guard.accepted.add(context.peer())
                    if not handler.response_streaming:
                        yield await handler.unary_unary(message, context)
                        return
                    async with asyncio.timeout(None if self.guard.open else self._limits.seconds):
                        await handler.unary_stream(message, context)
            except TimeoutError:
                await refuse(context, DeadlineExceeded(f"without a token a call ends after {self._limits.seconds:g} s"))
            except VenvdError as error:
                await refuse(context, error)

        return grpc.stream_stream_rpc_method_handler(serve, handler.request_deserializer, handler.response_serializer)

    async def _read(self, requests: AsyncIterator[Any]) -> Any:
        async with asyncio.timeout(self._limits.seconds):
            async for message in requests:
                return message
        raise DeadlineExceeded("the call has no message")

    @contextlib.contextmanager
    def _count(self, peer: str) -> Iterator[None]:
        """Count a call of a peer while it runs.

        Raises:
            Busy: the peer has too many of them.
        """
        if self._open_calls[peer] >= self._limits.connections:
            raise Busy(f"a client without a token may have {self._limits.connections} calls at a time")
        self._open_calls[peer] += 1
        try:
            yield
        finally:
            self._open_calls[peer] -= 1
            if not self._open_calls[peer]:
                del self._open_calls[peer]


class OpenMethods(grpc.GenericRpcHandler):
    """Methods that need no token, by path; their limits apply only to calls without an accepted token."""

    def __init__(self, handlers: Mapping[str, Handler], entrance: Entrance) -> None:
        self._handlers = handlers
        self._entrance = entrance

    def service(self, handler_call_details: Any) -> Any:
        """Find the handler of a call, for gRPC."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            return None
        guard, metadata = self._entrance.guard, handler_call_details.invocation_metadata
        is_known = not guard.open and self._entrance.knows(metadata)
        return handler if is_known else self._entrance.limit(handler)


def _list_sockets() -> Iterator[tuple[int, int]]:
    """Yield inode and descriptor of each socket of this process."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 — a hundred times a second on a busy server
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield status.st_ino, int(name)


def _identify(inode: int, descriptor: int, port: int, accepted: AbstractSet[str]) -> GrpcConnection | None:
    """Return the connection of a socket, or None if it is not a connection to the port."""
    with contextlib.suppress(OSError), _duplicate(descriptor) as own:
        if (
            own.family in {socket.AF_INET, socket.AF_INET6}
            and own.getsockname()[1] == port
            and os.fstat(own.fileno()).st_ino == inode
        ):
            host, peer_port = own.getpeername()[:2]
            address = host.removeprefix("::ffff:") if "." in host else host
            peer = f"ipv6:%5B{address}%5D:{peer_port}" if ":" in address else f"ipv4:{address}:{peer_port}"
            return GrpcConnection(inode, descriptor, peer, name_peer(address), accepted)
    return None


def _duplicate(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))
