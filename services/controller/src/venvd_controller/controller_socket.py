"""The controller's Unix socket, by which servers without a network reach their controller.

It serves what the port serves, with the same guard. The engine mounts its directory into containers of servers, but
never where user code runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

from venvd_contract.errors import VenvdError
from venvd_http.listening import listen_unix, remove_name
from venvd_http.server import Server

_log = logging.getLogger("venvd.controller")

_RETRY_SECONDS = 1.0
_MODE = 0o666
"""As open to this machine's users as the port on loopback: the guard always asks for a token."""


class ControllerSocket:
    """Serves the socket as soon as its directory can be used.

    The run directory may belong to root. Then the engine makes the directory when it starts the first backend.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._serving: asyncio.Task[None] | None = None

    def start(self, server: Server) -> None:
        """Serve in the running event loop."""
        self._serving = asyncio.get_running_loop().create_task(self._serve(server))

    async def _serve(self, server: Server) -> None:
        problem = ""
        while True:
            try:
                listener = self._listen()
            except (OSError, VenvdError) as error:
                if str(error) != problem:
                    problem = str(error)
                    _log.info("the socket %s is not served yet: %s", self._path, problem)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await server.add_listener(listener)
                self._link()
                return

    def _listen(self) -> socket.socket:
        with contextlib.suppress(PermissionError):
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._path.parent.chmod(0o755)  # despite the umask, since servers are other users
        # use the descriptor of the directory: the address of a socket has room for only 107 bytes
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return listen_unix(Path(f"/proc/self/fd/{directory}/{self._path.name}"), _MODE)
        finally:
            os.close(directory)

    def _link(self) -> None:
        """Link `controller.sock` in the run directory to the socket, unless it is another controller's."""
        link = self._path.parent.parent / self._path.name
        with contextlib.suppress(OSError):
            if link.is_symlink() and not link.exists():
                link.unlink()
            link.symlink_to(self._path.relative_to(link.parent))

    def close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        remove_name(self._path)
