"""The parts of the server that its connections use."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from venvd_core.backend import Backend
from venvd_core.hangup import HangupWatcher
from venvd_http.admission import Admission
from venvd_http.auth import TokenGuard
from venvd_pipe_backend.settings import PipeSettings

PipeConnection = Any
"""`venvd_pipe_backend.connection.PipeConnection`; that module imports this one."""


class Host(Protocol):
    """The server of a connection.

    Attributes:
        held: the bytes of requests that all connections hold.
        admission: the limits of connections without an accepted token.
    """

    backend: Backend
    guard: TokenGuard
    settings: PipeSettings
    hangups: HangupWatcher
    held: int
    admission: Admission

    def admit(self, connection: PipeConnection, peer: socket.socket) -> None:
        """Add a connection; raises `Busy` or `Forbidden` if it may not stay."""

    def keep_refused(self, connection: PipeConnection) -> bool:
        """Keep a refused connection until its peer has read the error; return whether there is room for it."""

    def remove(self, connection: PipeConnection) -> None: ...
