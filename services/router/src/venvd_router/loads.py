"""The load of replicas. The router spreads new sessions by it."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from venvd_contract.errors import VenvdError
from venvd_contract.internal.messages import LOAD_PATH, LoadReport
from venvd_router.replicas import Replicas
from venvd_router.upstream import Upstream

FRESH_SECONDS = 1.0
"""How long a report counts. The router adds the sessions that it creates meanwhile."""
_ANSWER_SECONDS = 2.0

_report = msgspec.json.Decoder(LoadReport)


class Loads:
    """Asks the replicas for their load.

    Args:
        token: the token that the replicas accept for this.

    Attributes:
        answering: the replicas that answered last time.
    """

    def __init__(self, replicas: Replicas, upstream: Upstream, token: str) -> None:
        self._replicas = replicas
        self._upstream = upstream
        self._token = token
        self._reports: dict[int, LoadReport] = {}
        self._created: Counter[int] = Counter()
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self.answering: frozenset[int] = frozenset()
        replicas.on_change.append(self._forget)

    async def rank_open(self) -> list[int]:
        """Rank the replicas that take new sessions. The one with the fewest sessions is the first."""
        self._replicas.look_for_missing()
        await self.refresh()
        numbers = self._replicas.table.list_open() or self._replicas.list_reachable()
        return sorted(numbers, key=self._rank)

    def _rank(self, number: int) -> tuple[bool, int, int, int]:
        report = self._reports.get(number) or LoadReport()
        sessions = report.sessions + self._created[number]
        return number not in self.answering, sessions, report.busy + report.queued, number

    def note_creation(self, number: int) -> None:
        """Note that a session was created on a replica."""
        self._created[number] += 1

    async def refresh(self) -> None:
        """Ask all replicas with an address, unless they were asked a moment ago."""
        async with self._asking:
            if asyncio.get_running_loop().time() - self._asked_at < FRESH_SECONDS:
                return
            numbers = self._replicas.list_reachable()
            reports = await asyncio.gather(*map(self._ask, numbers))
            self._asked_at = asyncio.get_running_loop().time()
            self._created.clear()
            reports_by_number = dict(zip(numbers, reports, strict=True))
            self.answering = frozenset(number for number, report in reports_by_number.items() if report is not None)
            self._reports = {number: report for number, report in reports_by_number.items() if report is not None}

    async def _ask(self, number: int) -> LoadReport | None:
        """Ask a replica. Return None if it does not answer, and an empty report if it refuses."""
        address = self._replicas.find_address(number)
        if address is None:
            return None
        request = (
            f"GET {LOAD_PATH} HTTP/1.1\r\nhost: {address.authority}\r\nauthorization: Bearer {self._token}\r\n"
            "connection: close\r\n\r\n"  # a server accepts a connection for the load only for a short time
        )
        try:
            connection = await self._upstream.acquire(address, None)
        except VenvdError:
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.begin(request.encode("latin-1"), without_body=False)
                body = await connection.read_all()
            return _report.decode(body) if connection.status == 200 else LoadReport()
        except (VenvdError, TimeoutError):
            return None
        except msgspec.MsgspecError:
            return LoadReport()
        finally:
            connection.abort()
            self._upstream.release(connection, None)

    def _forget(self) -> None:
        self._asked_at = float("-inf")
