"""The pipe server: it listens, serves connections and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from venvd_contract.errors import Busy
from venvd_core.backend import Backend
from venvd_core.hangup import HangupWatcher
from venvd_http import keys, probes
from venvd_http.admission import Admission
from venvd_http.auth import TokenGuard
from venvd_http.controller_connection import read_controller_address
from venvd_http.edge import create_backend_edge, read_limits
from venvd_http.environments import Environments
from venvd_http.guesses import Guesses
from venvd_http.listening import BACKLOG, listen_unix, remove_name
from venvd_http.server import create_server
from venvd_pipe_backend import peers
from venvd_pipe_backend.connection import PipeConnection
from venvd_pipe_backend.settings import PipeSettings

log = logging.getLogger(__name__)

PIPE = "pipe.sock"
HTTP = "http.sock"
LONGEST_CHECK_PAUSE = 5.0
MOST_REFUSED = 256
"""Refused connections that have not closed yet."""


class PipeServer:
    """Serves a backend on `pipe.sock` and its probes on `http.sock`, until it is closed."""

    def __init__(self, backend: Backend, settings: PipeSettings) -> None:
        self.backend = backend
        self.settings = settings
        self.guard = TokenGuard(
            settings.token_sha256,
            settings.metrics_token_sha256,
            name=f"backend:{settings.name}",
            guesses=Guesses(settings.max_wrong_tokens),
        )
        self.guard.on_key_end = backend.end_key
        self.guard.on_refusal = backend.refuse_token
        self.held = 0
        self.admission = Admission(read_limits(settings))
        self._pipe_path = settings.socket_dir / f"{settings.socket_prefix}{PIPE}"
        self._http_path = settings.socket_dir / f"{settings.socket_prefix}{HTTP}"
        self._connections: set[PipeConnection] = set()
        self._refused: set[PipeConnection] = set()
        self._uids: frozenset[int] | None = frozenset()

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidRequest, Conflict, Unavailable: as `listen_unix`.
        """
        loop = asyncio.get_running_loop()
        pipe_listener = self._listen(self._pipe_path)
        self._inode = self._pipe_path.lstat().st_ino
        try:
            http_listener = self._listen(self._http_path)
        except BaseException:
            pipe_listener.close()
            remove_name(self._pipe_path)
            raise
        self._uids = peers.find_allowed_users(
            self.settings.socket_uids, self.settings.socket_dir, token=bool(self.settings.token_sha256)
        )
        self.hangups = HangupWatcher(loop)
        self._watching_keys = keys.watch(self.settings.keys_file, self.guard, self.backend.replicas)
        self.backend.environments = Environments(read_controller_address(self.settings), older=self.settings.compat)
        self._server = await loop.create_unix_server(
            lambda: PipeConnection(self, loop), sock=pipe_listener, backlog=BACKLOG
        )
        app = probes.create_app(self.backend, self.guard)
        self._http = create_server(app, create_backend_edge(self.settings), stall_timeout=self.settings.stall_timeout)
        self._serving_http = asyncio.ensure_future(self._http.serve(sockets=[http_listener]))
        self._stall_checks = asyncio.ensure_future(self._check_stalls())
        log.info("serving %s", self._pipe_path)

    def _listen(self, path: Path) -> socket.socket:
        settings = self.settings
        return listen_unix(path, settings.socket_mode, settings.socket_owner, settings.socket_group)

    async def close(self) -> None:
        """Wait up to `drain` seconds for the running calls, then close everything."""
        self._server.close()
        self._remove_names()
        for connection in list(self._connections):
            connection.end_requests()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wait_until_idle(), self.settings.drain)
        for connection in [*self._connections, *self._refused]:
            connection.abort()
        self._stall_checks.cancel()
        if self._watching_keys is not None:
            self._watching_keys.cancel()
        remove_name(self._http_path)
        self._http.should_exit = True
        await asyncio.wait({self._stall_checks, self._serving_http})
        self.hangups.close()

    def _remove_names(self) -> None:
        """Remove the names of the socket for clients: an update may have given it another one."""
        with contextlib.suppress(OSError):
            for path in self.settings.socket_dir.iterdir():
                if path.lstat().st_ino == self._inode:
                    remove_name(path)

    async def _wait_until_idle(self) -> None:
        while any(connection.busy for connection in self._connections):  # noqa: ASYNC110 — only once, at the end
            await asyncio.sleep(0.02)

    def admit(self, connection: PipeConnection, peer: socket.socket) -> None:
        """Add a connection.

        Raises:
            Forbidden: the peer's user may not connect.
            Busy: there are too many connections.
        """
        peers.check_user(peer, self._uids)
        self.admission.enter(connection, connection.peer)
        if len(self._connections) >= self.settings.max_connections:
            raise Busy(f"there are {self.settings.max_connections} connections already")
        self._connections.add(connection)

    def keep_refused(self, connection: PipeConnection) -> bool:
        if len(self._refused) >= MOST_REFUSED:
            return False
        self._refused.add(connection)
        return True

    def remove(self, connection: PipeConnection) -> None:
        self.admission.leave(connection, connection.peer)
        self._connections.discard(connection)
        self._refused.discard(connection)

    async def _check_stalls(self) -> None:
        pause = min(self.settings.stall_timeout / 4, LONGEST_CHECK_PAUSE)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            for connection in [*self._connections, *self._refused]:
                connection.check_stall(loop.time())
