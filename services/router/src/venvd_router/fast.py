"""Calls on the fast path: a small request and its answer pass between two connections without a task or ASGI.

A call of a session takes this path if its whole request has come. It needs a task if no connection to the replica is
kept, if the answer comes in several pieces, or if the session has moved.
"""

from __future__ import annotations

import asyncio
import logging

from venvd_contract.commands import COMMANDS, SESSION_COMMANDS
from venvd_contract.errors import Internal, Moved, Unavailable, VenvdError
from venvd_http.auth import Key
from venvd_http.connection import Exchange
from venvd_http.connection import HttpConnection as ClientConnection
from venvd_http.heads import Head
from venvd_router.activity import Activity
from venvd_router.forward import MOST_MOVES, read_url
from venvd_router.replicas import Address, Replicas
from venvd_router.routes import read_session
from venvd_router.upstream import Upstream, UpstreamConnection, keep_headers

log = logging.getLogger(__name__)

_LARGE = frozenset({"tofloatarray", "tofloatarray2d"})
"""The commands whose answers servers send part by part."""
ROUTES = {
    command.http[1].encode(): command.http[1]
    for command in COMMANDS
    if command.http[0] == "POST" and command.name in SESSION_COMMANDS - _LARGE
}


class FastCalls:
    """What all calls on the fast path share."""

    def __init__(self, replicas: Replicas, upstream: Upstream, activity: Activity) -> None:
        self.replicas = replicas
        self.upstream = upstream
        self.activity = activity
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, connection: ClientConnection, keep_alive: bool) -> Exchange:
        """Make the exchange of one request."""
        return FastCall(self, connection, keep_alive)


class FastCall(Exchange):
    """One call on the fast path."""

    __slots__ = ("_address", "_body", "_calls", "_head", "_key", "_number", "_path", "_task", "_upstream")

    def __init__(self, calls: FastCalls, connection: ClientConnection, keep_alive: bool) -> None:
        super().__init__(connection, keep_alive)
        self._calls = calls
        self._upstream: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, command: str, head: Head, body: bytes) -> None:
        calls = self._calls
        calls.activity.begin()
        self._path, self._head, self._body = command, head, body
        self._key: Key | None = None if head.caller is None else head.caller.key
        self._number = calls.replicas.find_home(head.session or read_session(body))
        address = calls.replicas.find_address(self._number)
        kept = None if address is None else calls.upstream.take_kept(address, self._key)
        if address is None or kept is None:
            self._start_task()
        else:
            self._send(kept, address).add_done_callback(self._on_head)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._upstream is not None:
            self._upstream.abort()

    def _send(self, connection: UpstreamConnection, address: Address) -> asyncio.Future[None]:
        self._upstream = connection
        return connection.begin(_render(self._path, self._head, address, self._body), without_body=False)

    def _on_head(self, head: asyncio.Future[None]) -> None:
        connection = self._upstream
        error = head.exception()
        if connection is None or self.disconnected or error is not None:
            self._drop()
            self._end(error)
        elif connection.complete and connection.status != Moved.http_status:
            self._answer(connection, connection.take())
        else:
            self._start_task()

    def _start_task(self) -> None:
        self._task = asyncio.ensure_future(self._run())
        self._calls.tasks.add(self._task)
        self._task.add_done_callback(self._calls.tasks.discard)

    async def _run(self) -> None:
        try:
            await self._ask()
        except asyncio.CancelledError:
            self._drop()
            self._end(None)
        except Exception as error:  # noqa: BLE001 — every error becomes an answer
            self._drop()
            self._end(error)

    async def _ask(self) -> None:
        for _ in range(MOST_MOVES + 1):
            connection = self._upstream or await self._reach()
            body = await connection.read_all()
            url = read_url(body) if connection.status == Moved.http_status else None
            if url is None:
                self._answer(connection, body)
                return
            self._follow(url)
        raise Unavailable("the replicas of this backend send each other the session; try again")

    async def _reach(self) -> UpstreamConnection:
        calls = self._calls
        await calls.replicas.wait_for_any()
        address = calls.replicas.get_address(self._number)
        connection = await calls.upstream.acquire(address, self._key)
        await self._send(connection, address)
        return connection

    def _follow(self, url: str) -> None:
        calls = self._calls
        calls.activity.count(self._number, str(Moved.http_status))
        target = calls.replicas.find_number(url)
        if target is None:
            raise Unavailable(f"replica {self._number} says that the session moved to {url[:200]}, which is no replica")
        if self._upstream is not None:
            calls.upstream.release(self._upstream, self._key)
        self._upstream, self._number = None, target
        calls.activity.moves += 1

    def _answer(self, connection: UpstreamConnection, body: bytes) -> None:
        status = connection.status
        headers = b"".join(
            b"%b: %b\r\n" % header for header in keep_headers(connection.headers) if header[0] != b"content-length"
        )
        self._upstream = None
        self._calls.upstream.release(connection, self._key)
        self._calls.activity.count(self._number, str(status))
        self._calls.activity.end()
        if self.disconnected:
            self.response_complete = True
        else:
            self._connection.answer(self, b"200 OK" if status == 200 else b"%d " % status, headers, body)

    def _drop(self) -> None:
        connection, self._upstream = self._upstream, None
        if connection is not None:
            connection.abort()
            self._calls.upstream.release(connection, self._key)

    def _end(self, error: BaseException | None) -> None:
        """End a call without an answer of a replica."""
        self._calls.activity.end()
        if error is not None and not isinstance(error, VenvdError):
            log.error("a call failed with an unexpected error", exc_info=error)
        known = (
            error if isinstance(error, VenvdError) else Internal("a defect of the router; its log has the traceback")
        )
        self._calls.activity.count(self._number, known.code if error is not None else "gone")
        self.refuse(known)


def _render(path: str, head: Head, address: Address, body: bytes) -> bytes:
    """Render a request, with the fields of its head that describe the call."""
    lines = [f"POST {path} HTTP/1.1\r\nhost: {address.authority}\r\nx-forwarded-for: {head.peer}\r\n"]
    if head.token is not None:
        lines.append(f"authorization: Bearer {head.token}\r\n")
    named = (("session", head.session), ("values", head.values), ("call", head.call))
    lines += [f"x-venvd-{name}: {value}\r\n" for name, value in named if value is not None]
    numbers = (("timeout", head.timeout), ("lease", head.lease))
    lines += [f"x-venvd-{name}: {number!r}\r\n" for name, number in numbers if number is not None]
    lines.append(f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    return "".join(lines).encode("latin-1") + body
