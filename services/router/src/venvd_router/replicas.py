"""The replicas that the router knows, and where it reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from venvd_contract.errors import Unavailable
from venvd_contract.internal.replica_table import DEFAULT, ReplicaEntry, ReplicaTable, read_number

_LOOK_SECONDS = 0.1
"""Seconds between two looks at the file while requests wait for an address."""
_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


@dataclass(frozen=True)
class Address:
    """Where the router reaches a port of a replica.

    Attributes:
        number: the number of the replica.
        authority: host and port, as in a header.
        certificate: the certificates that the server may show, PEM, one after another; None without TLS.
    """

    number: int
    host: str
    port: int
    authority: str
    secure: bool
    certificate: str | None


class Replicas:
    """The table of replicas. It changes while the router runs.

    Args:
        seconds: how long a request waits for an address.
        most: how many requests may wait.

    Attributes:
        refresh: reads the table again.
        tables: how many tables were read.
        on_change: functions called after each change.
        waiting: how many requests wait because no replica has an address.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self.refresh: Callable[[], None] | None = None
        self.on_change: list[Callable[[], None]] = []
        self.table = ReplicaTable()
        self.tables = 0
        self.waiting = 0
        self._seconds = seconds
        self._most = most
        self._changed = asyncio.Event()

    def replace_table(self, table: ReplicaTable) -> None:
        """Take the table that the controller has written."""
        self.table = table
        self.tables += 1
        self._changed.set()
        self._changed = asyncio.Event()
        for tell in self.on_change:
            tell()

    def find_home(self, session: str | None) -> int:
        """Find the replica of a session. If no replica has it, return the first one, which refuses the session."""
        home = self.table.find_home(session or DEFAULT)
        return 0 if home is None else home

    def find_call_home(self, call: str) -> int:
        """Find the replica of a background call. IDs without a number belong to the first replica."""
        number = read_number(call)
        return number if number is not None and number < self.table.count else 0

    def find_number(self, url: str) -> int | None:
        """Find the number of the launch that clients or this router reach at `url`."""
        number = self._look_up(url)
        if number is None and self.refresh is not None:
            self.refresh()
            number = self._look_up(url)
        return number

    def _look_up(self, url: str) -> int | None:
        entries = enumerate(self.table.replicas)
        return next((number for number, each in entries if url in {each.url, each.innerUrl}), None)

    def list_reachable(self) -> list[int]:
        """List the launches that have an address: first those of replicas, then those that drain after an update."""
        return [number for number, each in enumerate(self.table.replicas) if _find_url(each) is not None]

    def look_for_missing(self) -> None:
        """Read the table again if a replica has no address, since it may have got one a moment ago."""
        if self.refresh is not None and len(self.list_reachable()) < len(self.table.replicas):
            self.refresh()

    def find_address(self, number: int, *, http: bool = True) -> Address | None:
        """Find where the router reaches a replica.

        Args:
            number: the number of the replica.
            http: whether to reach its HTTP port, if its main port speaks gRPC.
        """
        if number >= len(self.table.replicas):
            return None
        entry = self.table.replicas[number]
        url = _find_url(entry)
        if http and url is not None and urlsplit(url).scheme.startswith("grpc"):
            url = entry.innerHttpUrl
        if url is None:
            return None
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme in {"https", "grpcs"}
        port = parts.port or _PORTS.get(parts.scheme, 80)
        return Address(number, host, port, parts.netloc, secure, entry.certificate if secure else None)

    def get_address(self, number: int, *, http: bool = True) -> Address:
        """Return where the router reaches a replica.

        Raises:
            Unavailable: the replica has no address.
        """
        address = self.find_address(number, http=http)
        if address is None and self.refresh is not None:
            self.refresh()
            address = self.find_address(number, http=http)
        if address is None:
            raise Unavailable(f"replica {number} of this backend has no address now; try again")
        return address

    async def wait_for_any(self) -> None:
        """Wait until a replica has an address.

        Raises:
            Unavailable: no replica got an address in time, or too many requests wait.
        """
        if self.list_reachable():
            return
        if self.waiting >= self._most:
            raise Unavailable(f"no replica of this backend has an address, and {self._most} requests wait for one")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                while not self.list_reachable():
                    await self._wait_for_change()
        except TimeoutError:
            raise Unavailable(f"no replica of this backend got an address within {self._seconds:g} s") from None
        finally:
            self.waiting -= 1

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            if self.refresh is not None:
                self.refresh()


def _find_url(entry: ReplicaEntry) -> str | None:
    return entry.innerUrl or entry.url
