"""The search for free ports on the engine's host."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

from venvd_contract.errors import Conflict
from venvd_engines.engine import Port

LAST = 65535
_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


class PortSearch:
    """Chooses the ports of one start.

    What is known to be taken is passed over; what the engine then finds taken all the same is told with `lost`, and the
    search goes on.
    """

    def __init__(self, host: str, ports: Sequence[Port], published: Iterable[int], *, near: bool) -> None:
        """`near`: the engine's host is this machine, so that a look by `bind` tells something."""
        self._host = host
        self._ports = ports
        self._taken = set(published)
        self._near = near

    def choose(self) -> dict[int, int]:
        """The port outside for each port inside.

        Raises:
            Conflict: names the port that was asked for and is taken, or says that none is free.
        """
        chosen: dict[int, int] = {}
        for port in self._ports:
            chosen[port.inside] = self._next(port, set(chosen.values()))
        return chosen

    def lost(self, chosen: dict[int, int], explanation: str) -> bool:
        """Whether the engine's explanation says that a chosen port is taken; if so it is not chosen again."""
        if not _TAKEN.search(explanation):
            return False
        named = {int(number) for number in re.findall(r":(\d+)\b", explanation)} & set(chosen.values())
        self._taken |= named or set(chosen.values())
        return True

    def _next(self, port: Port, chosen: set[int]) -> int:
        for candidate in [port.wanted] if port.exact else range(port.wanted, LAST + 1):
            if candidate not in self._taken and candidate not in chosen and not self._in_use(candidate):
                return candidate
        if port.exact:
            raise Conflict(f"port {port.wanted} on {self._host} is in use; name another, or none for the next free one")
        raise Conflict(f"no port from {port.wanted} on is free on {self._host}")

    def _in_use(self, port: int) -> bool:
        if not self._near:
            return False
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe, contextlib.suppress(OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError as error:
                return error.errno == errno.EADDRINUSE
        return False


def reachable(host: str) -> str:
    """The address by which a client on this machine reaches what is published on `host`, as it stands in a URL."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)
