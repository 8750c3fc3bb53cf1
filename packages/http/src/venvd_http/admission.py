"""Limits on unaccepted connections: how long they stay, and how many one peer may have."""

from __future__ import annotations

import array
import asyncio
import fcntl
import ipaddress
import logging
import termios
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger("venvd.access")

SETTLE_SECONDS = 3.0
"""How long a peer may have too many connections: in this time, clients that connect all at once are accepted."""
MOST = 1024
"""Unaccepted connections of all peers together."""
_REPORT_SECONDS = 60.0


@dataclass(frozen=True)
class AdmissionLimits:
    """The limits of connections that have sent no accepted token.

    Attributes:
        seconds: time in which a connection must be accepted.
        connections: the most unaccepted connections of one peer.
        bytes: the most bytes of a request that the server holds for such a connection.
    """

    seconds: float = 10.0
    connections: int = 16
    bytes: int = 64 * 1024


class Newcomer(Protocol):
    """A connection that is not accepted yet."""

    def has_unread(self) -> bool:
        """Return whether unread bytes of the client are in the kernel: then the server is slow, not the client."""

    def drop(self, reason: str) -> None:
        """Close the connection."""


class Admission:
    """Closes connections that are not accepted in time, and the oldest of a peer that has too many.

    The newest stay, so that silent connections of a peer do not keep out its other clients. A peer is an IPv4 address,
    an IPv6 network of 64 bits, or a user ID.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self.limits = limits
        self._peers: dict[str, dict[Newcomer, float]] = {}
        self._total = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pause = min(SETTLE_SECONDS, limits.seconds) / 4
        self._dropped = 0
        self._next_report = 0.0

    def enter(self, connection: Newcomer, peer: str, since: float | None = None) -> None:
        """Note a connection of a peer that began now, or at the loop's time `since`."""
        loop = asyncio.get_running_loop()
        if self._total >= MOST:
            crowd = max(self._peers.values(), key=len)
            self._drop(next(iter(crowd)), f"there are {MOST} connections without an accepted token")
        self._peers.setdefault(peer, {})[connection] = loop.time() if since is None else since
        self._total += 1
        if self._timer is None:
            self._timer = loop.call_later(self._pause, self._tick)

    def leave(self, connection: Newcomer, peer: str) -> None:
        """Forget an accepted or closed connection; a second call does nothing."""
        connections = self._peers.get(peer)
        if connections is not None and connections.pop(connection, None) is not None:
            self._total -= 1
            if not connections:
                del self._peers[peer]

    def move(self, connection: Newcomer, peer: str, other: str) -> None:
        """Count a connection for another peer from now on, unless it is accepted or closed."""
        since = self._peers.get(peer, {}).get(connection)
        if since is not None:
            self.leave(connection, peer)
            self._peers.setdefault(other, {})[connection] = since
            self._total += 1

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now, limits = loop.time(), self.limits
        for connections in list(self._peers.values()):
            surplus = len(connections) - limits.connections
            for connection, since in list(connections.items()):
                if now - since >= limits.seconds:
                    surplus -= 1
                    self._drop(connection, f"no token was accepted within {limits.seconds:g} s")
                elif surplus > 0 and now - since >= SETTLE_SECONDS and not connection.has_unread():
                    surplus -= 1
                    reason = f"its peer has more than {limits.connections} connections without an accepted token"
                    self._drop(connection, reason)
        self._timer = loop.call_later(self._pause, self._tick) if self._total else None

    def _drop(self, connection: Newcomer, reason: str) -> None:
        for peer, connections in self._peers.items():
            if connection in connections:
                self.leave(connection, peer)
                self._report(peer, reason)
                break
        connection.drop(reason)

    def _report(self, peer: str, reason: str) -> None:
        """Log at most one line a minute."""
        self._dropped += 1
        now = asyncio.get_running_loop().time()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            fields = {"peer": peer, "closed": self._dropped}
            _log.warning("a connection was closed: %s", reason, extra={"fields": fields})
            self._dropped = 0


def name_peer(address: str) -> str:
    """Return the peer of an address: the address itself, or its network for IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def count_unread(descriptor: int) -> int:
    """Return how many unread bytes a socket has in the kernel."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
