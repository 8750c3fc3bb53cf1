"""The search for free ports on the engine's host."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterable, Sequence

from venvd_contract.errors import Conflict
from venvd_engines.engine import Port, exact_first

LAST_PORT = 65535
_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)


class PortSearch:
    """Chooses the ports of one start.

    If the engine refuses a chosen port, the caller reports it with `exclude` and chooses again.

    Args:
        host: the address to publish on.
        ports: the ports of the server.
        taken: numbers to skip.
        probe: also try to bind each port; true if the engine's host is this machine.
    """

    def __init__(self, host: str, ports: Sequence[Port], taken: Iterable[int], *, probe: bool) -> None:
        self._host = host
        self._ports = ports
        self._taken = set(taken)
        self._probe = probe

    def choose(self) -> dict[int, int]:
        """Choose the port outside for each port inside.

        Raises:
            Conflict: the exact port is taken, or no port is free.
        """
        chosen: dict[int, int] = {}
        for port in exact_first(self._ports):
            chosen[port.inside] = self._choose_one(port, set(chosen.values()))
        return chosen

    def exclude(self, chosen: dict[int, int], explanation: str) -> bool:
        """Exclude the ports that the engine's error names as taken. Return False if it is another error."""
        if not _TAKEN.search(explanation):
            return False
        named = {int(number) for number in re.findall(r":(\d+)\b", explanation)} & set(chosen.values())
        self._taken |= named or set(chosen.values())
        return True

    def _choose_one(self, port: Port, chosen: set[int]) -> int:
        for candidate in [port.wanted] if port.exact else range(port.wanted, LAST_PORT + 1):
            if candidate not in self._taken and candidate not in chosen and not self._in_use(candidate):
                return candidate
        if port.exact:
            raise Conflict(f"port {port.wanted} on {self._host} is in use; name another, or none for the next free one")
        raise Conflict(f"no port from {port.wanted} on is free on {self._host}")

    def _in_use(self, port: int) -> bool:
        if not self._probe:
            return False
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as listener, contextlib.suppress(OverflowError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self._host, port))
            except OSError as error:
                return error.errno == errno.EADDRINUSE
        return False
