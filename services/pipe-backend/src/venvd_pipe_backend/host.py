"""What a connection needs of its server."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from venvd_core.backend import Backend
from venvd_core.hangup import HangupWatcher
from venvd_http.admission import Admission
from venvd_http.auth import TokenGuard
from venvd_pipe_backend.settings import PipeSettings

PipeConnection = Any
"""`venvd_pipe_backend.connection.Connection`, which imports this module."""


class Host(Protocol):
    """The server that a connection belongs to.

    Attributes:
        held: bytes of requests, of all connections.
        admission: the limits of connections without an accepted token.
    """

    backend: Backend
    guard: TokenGuard
    settings: PipeSettings
    hangups: HangupWatcher
    held: int
    admission: Admission

    def admit(self, connection: PipeConnection, peer: socket.socket) -> None:
        """Add a connection; raises `Busy` or `Forbidden` where it may not stay."""

    def keep_refused(self, connection: PipeConnection) -> bool:
        """Let a refused connection stay until its peer has read why; whether there is room for it."""

    def remove(self, connection: PipeConnection) -> None: ...
