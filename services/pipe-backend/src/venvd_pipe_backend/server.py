"""The pipe server: its listeners, its connections and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from venvd_contract.errors import Busy
from venvd_core.backend import Backend
from venvd_core.hangup import HangupWatcher
from venvd_pipe_backend import http, listeners, peers
from venvd_pipe_backend.connection import Connection
from venvd_pipe_backend.settings import PipeSettings

log = logging.getLogger(__name__)

PIPE = "pipe.sock"
HTTP = "http.sock"
LONGEST_CHECK_PAUSE = 5.0
MOST_REFUSED = 256
"""Connections that were not admitted and have not closed yet."""


class PipeServer:
    """Serves a backend on `pipe.sock` and its probes on `http.sock`, until it is closed."""

    def __init__(self, backend: Backend, settings: PipeSettings) -> None:
        self.backend = backend
        self.settings = settings
        self.held = 0
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._uids: frozenset[int] | None = frozenset()

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidRequest, Conflict, Unavailable: as `listeners.listen`.
        """
        loop = asyncio.get_running_loop()
        pipe = listeners.listen(self.settings, PIPE)
        try:
            probes = listeners.listen(self.settings, HTTP)
        except BaseException:
            pipe.close()
            listeners.remove(self.settings, PIPE)
            raise
        self._uids = peers.allowed_users(
            self.settings.socket_uids, self.settings.socket_dir, token=bool(self.settings.token_sha256)
        )
        self.hangups = HangupWatcher(loop)
        self._server = await loop.create_unix_server(
            lambda: Connection(self, loop), sock=pipe, backlog=listeners.BACKLOG
        )
        self._http = http.server(self.backend, self.settings.stall_timeout)
        self._serving_http = asyncio.ensure_future(http.serve(self._http, probes))
        self._stall_checks = asyncio.ensure_future(self._check_stalls())

    async def close(self) -> None:
        """Answer the running calls, within `drain` seconds, then close everything."""
        self._server.close()
        listeners.remove(self.settings, PIPE)
        for connection in list(self._connections):
            connection.end_requests()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_until_idle(), self.settings.drain)
        for connection in [*self._connections, *self._refused]:
            connection.abort()
        self._stall_checks.cancel()
        listeners.remove(self.settings, HTTP)
        self._http.should_exit = True
        await asyncio.wait({self._stall_checks, self._serving_http})
        self.hangups.close()

    async def _wait_until_idle(self) -> None:
        while any(connection.busy for connection in self._connections):  # noqa: ASYNC110 — only once, at the end
            await asyncio.sleep(0.02)

    def admit(self, connection: Connection, peer: socket.socket) -> None:
        """Add a connection.

        Raises:
            Forbidden: the peer's user may not connect.
            Busy: there are too many connections.
        """
        peers.check_user(peer, self._uids)
        if len(self._connections) >= self.settings.max_connections:
            raise Busy(f"there are {self.settings.max_connections} connections already")
        self._connections.add(connection)

    def keep_refused(self, connection: Connection) -> bool:
        if len(self._refused) >= MOST_REFUSED:
            return False
        self._refused.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._refused.discard(connection)

    async def _check_stalls(self) -> None:
        shortest = min(self.settings.stall_timeout, self.settings.first_request_timeout)
        pause = min(shortest / 4, LONGEST_CHECK_PAUSE)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            for connection in [*self._connections, *self._refused]:
                connection.check_stall(loop.time())
