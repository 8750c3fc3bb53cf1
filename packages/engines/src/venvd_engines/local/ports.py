"""The ports of this machine: which are free, and which process listens on a port."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_engines.engine import Port
from venvd_worker.common.process_tree import list_pids

_ATTEMPTS = 2000
"""How many ports `choose` tries."""
_LISTEN = "0A"


def choose(host: str, port: Port, taken: Collection[int]) -> int:
    """Choose the wanted port if it is free, else the next free one.

    Args:
        host: the address to listen on.
        port: exact or not.
        taken: ports to skip although they may look free, such as those of a server that is starting.

    Raises:
        Conflict: no port is free, or the exact one is taken; the message names the process if it is visible.
        InvalidRequest: this machine lacks the address, or this user may not use the port.
    """
    last = port.wanted if port.exact else min(port.wanted + _ATTEMPTS, 65535)
    for number in range(port.wanted, last + 1):
        if number not in taken and is_free(host, number):
            return number
    if port.exact:
        raise Conflict(f"port {port.wanted} is taken{_describe_owner(port.wanted)}")
    raise Conflict(f"no port from {port.wanted} to {last} is free on {host}")


def is_free(host: str, number: int) -> bool:
    """Return whether a server could listen on a port now.

    Raises:
        InvalidRequest: this machine lacks the address, or this user may not use the port.
    """
    family, address = _address(host, number)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as servers do: with this, closed connections of an earlier server do not occupy the port
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
        candidates = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise InvalidRequest(f'"{host[:80]}" is not an address that a server can listen on') from None
    family, _, _, _, address = candidates[0]
    return family, (str(address[0]), int(address[1]))


def listens(pid: int, number: int) -> bool:
    """Return whether a process listens on the port. If its sockets are hidden, any process counts."""
    listening = set(_list_listening_inodes(number))
    own = _socket_inodes(pid)
    return bool(listening if own is None else listening & own)


def _describe_owner(number: int) -> str:
    """Name the process that listens on a port, as the end of a sentence; empty if the process is hidden."""
    wanted = set(_list_listening_inodes(number))
    for pid in list_pids() if wanted else ():
        if (_socket_inodes(pid) or set()) & wanted:
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                return ""
            return f" by process {pid} ({name})"
    return ""


def _list_listening_inodes(number: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
                yield fields[9]


def _socket_inodes(pid: int) -> set[str] | None:
    """Return the inodes of a process's sockets, or None if they are hidden from this user."""
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the process may have closed it meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    except PermissionError:
        return None
    except OSError:
        pass
    return inodes
