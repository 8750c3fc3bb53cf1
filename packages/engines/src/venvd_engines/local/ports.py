"""Ports of this machine: which are free, and who has one that is not."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_engines.engine import Port
from venvd_worker.common.process_tree import list_pids

_TRIED = 2000
"""How many ports are tried upward of the one that is wanted."""
_LISTEN = "0A"


def choose(host: str, port: Port, taken: Collection[int]) -> int:
    """The port itself where it is free, else the next free one.

    Ports in `taken` are not used although they may look free, such as those of a server that is starting.

    Raises:
        Conflict: none is free, or the port is exact and taken; says by whom where that can be seen.
        InvalidRequest: nothing can listen there: no such address, no right to the port.
    """
    last = port.wanted if port.exact else min(port.wanted + _TRIED, 65535)
    for number in range(port.wanted, last + 1):
        if number not in taken and free(host, number):
            return number
    if port.exact:
        raise Conflict(f"port {port.wanted} is taken{_by(port.wanted)}")
    raise Conflict(f"no port from {port.wanted} to {last} is free on {host}")


def free(host: str, number: int) -> bool:
    """Whether a server could listen there now.

    Raises:
        InvalidRequest: no server could, whatever runs.
    """
    family, address = _address(host, number)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # connections of an earlier server that the kernel has not forgotten keep no new one from listening
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise InvalidRequest(f"nothing can listen on {host}, port {number}: {error.strerror}") from None
    return True


def _address(host: str, number: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise InvalidRequest(f'"{host[:80]}" is no address that a server can listen on') from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def reachable(host: str) -> str:
    """The host as a URL on this machine names it: loopback where the server listens on every address."""
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{shown}]" if ":" in shown else shown


def listens(pid: int, number: int) -> bool:
    """Whether that very process listens on the port; where it hides its sockets, whether anyone does."""
    listening = set(_listening(number))
    mine = _inodes(pid)
    return bool(listening if mine is None else listening & mine)


def _by(number: int) -> str:
    """Who listens on a port, as the end of a sentence; empty where it cannot be seen."""
    wanted = set(_listening(number))
    for pid in list_pids() if wanted else ():
        if (_inodes(pid) or set()) & wanted:
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                return ""
            return f" by process {pid} ({name})"
    return ""


def _listening(number: int) -> Iterator[str]:
    """The inodes of the sockets that listen on a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                yield fields[9]


def _inodes(pid: int) -> set[str] | None:
    """The inodes of a process's sockets; None where they are hidden from us."""
    found = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    except PermissionError:
        return None
    except OSError:
        pass
    return found
