"""The directories of the sockets that clients use: subdirectories of the run directory.

A directory belongs to the owner of the home and to the group of the servers. This process may lack the right to make,
change or remove it: it is neither root nor in that group, or root owns the run directory. Then a container does the
work as root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from docker.types import Mount

from venvd_contract.errors import InvalidRequest
from venvd_engines import socket_names
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.root_work import MOUNT_POINT, run_as_root
from venvd_engines.engine import RESERVED_DIRECTORIES

INSIDE = "/run/venvd/socket"
CONTROLLER = "/run/venvd/controller"
MAIN, PROBES = socket_names.PIPE, socket_names.PROBES
MAX_PATH_BYTES = 107
"""The kernel's limit for a socket's path."""

OPEN, CLOSED = 0o2775, 0o2770
"""Modes of a directory: all users can reach its sockets, or only owner and group can."""
CONTROLLER_MODE = 0o755
SOCKET_MODE = "0666"
"""Mode of a socket. The directory protects it, since a server without capabilities cannot change its owner."""

_MAKE_CODE = """
import json, os, sys
path, owner, group, mode = json.loads(sys.argv[1])
os.makedirs(path, exist_ok=True)
os.chown(path, owner, group)
os.chmod(path, mode)
"""
_REMOVE_CODE = """
import json, os, shutil, sys
path, keep = json.loads(sys.argv[1])
for entry in os.scandir(path) if os.path.isdir(path) else ():
    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
if not keep and os.path.isdir(path):
    os.rmdir(path)
"""


class SocketDirectories:
    """Makes and removes the directories of sockets."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def path(self, name: str, prefix: str = "") -> Path:
        """Return the path of a directory. It is the same here and on the engine's host.

        The names of the sockets in the directory begin with `prefix`.

        Raises:
            InvalidRequest: no directory can have the name, or the path is too long for a socket.
        """
        if not name or name in {".", ".."} or "/" in name or name.startswith(RESERVED_DIRECTORIES):
            raise InvalidRequest(f'"{name[:80]}" cannot name a directory of sockets')
        directory = self._client.settings.run_dir / name
        if len(os.fsencode(directory / f"{prefix}{MAIN}")) > MAX_PATH_BYTES:
            raise InvalidRequest(
                f"the path of the socket, {directory / MAIN}, is longer than {MAX_PATH_BYTES} bytes: set VENVD_RUN_DIR "
                "to a shorter one"
            )
        return directory

    def make(self, name: str, mode: int, image: str) -> Path:
        """Make an empty directory.

        Args:
            name: the name of the directory.
            mode: `OPEN` or `CLOSED`.
            image: an image with Python, for the container that makes the directory if this process may not.
        """
        path = self.path(name)
        try:
            self._empty(path)
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, -1, labels.SHARED_GID)
            path.chmod(mode)
        except PermissionError:
            self._work(_MAKE_CODE, [f"{MOUNT_POINT}/{name}", os.geteuid(), labels.SHARED_GID, mode], image)
        return path

    def mount_controller(self, socket: Path, image: str) -> Mount:
        """Return the mount of the directory with the controller's socket. Make the directory if it does not exist.

        Args:
            socket: the path of the socket, in a directory of the run directory.
            image: as in `make`.
        """
        if not socket.parent.is_dir():
            self.share(socket.parent.name, CONTROLLER_MODE, image)
        return Mount(CONTROLLER, str(socket.parent), type="bind", read_only=True)

    def share(self, name: str, mode: int, image: str) -> Path:
        """Make a directory of the servers' group, or give an existing one that group and mode; its content stays.

        The arguments are those of `make`.
        """
        path = self._client.settings.run_dir / name
        try:
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, -1, labels.SHARED_GID)
            path.chmod(mode)
        except PermissionError:
            self._work(_MAKE_CODE, [f"{MOUNT_POINT}/{name}", os.geteuid(), labels.SHARED_GID, mode], image)
        return path

    def remove(self, name: str, image: str | None, *, keep: bool = False) -> None:
        """Remove the directory with its content.

        Args:
            name: the name of the directory.
            image: as in `make`; without one, a directory that this process may not remove is an error.
            keep: remove only the content, since containers of clients mount the directory.
        """
        path = self.path(name)
        try:
            self._empty(path)
            with contextlib.suppress(FileNotFoundError):
                if not keep:
                    path.rmdir()
        except PermissionError:
            if image is None:
                raise
            self._work(_REMOVE_CODE, [f"{MOUNT_POINT}/{name}", keep], image)

    @staticmethod
    def _empty(path: Path) -> None:
        """Remove the content of a directory, if the directory exists."""
        for entry in path.iterdir() if path.exists() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _work(self, code: str, arguments: list[Any], image: str) -> None:
        run_as_root(self._client, self._client.settings.run_dir, code, arguments, image)
