"""The directories of sockets that clients use: subdirectories of the run directory.

A directory belongs to the owner of the home and to the group of the servers. A container changes what this process has
no right to change: it is neither root nor in that group, or the run directory is root's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_contract.errors import Internal, InvalidRequest
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

INSIDE = "/run/venvd/socket"
MAIN, PROBES = "pipe.sock", "http.sock"
MAX_PATH_BYTES = 107
"""The kernel's limit for a socket's path."""

OPEN, CLOSED = 0o2775, 0o2770
SOCKET_MODE = "0666"
"""The directory protects the sockets: a server without capabilities cannot change their owner."""

_MOUNT_POINT = "/run/venvd/run"
_MAKE = """
import json, os, sys
path, owner, group, mode = json.loads(sys.argv[1])
os.makedirs(path, exist_ok=True)
os.chown(path, owner, group)
os.chmod(path, mode)
"""
_REMOVE = """
import json, os, shutil, sys
path, keep = json.loads(sys.argv[1])
for entry in os.scandir(path) if os.path.isdir(path) else ():
    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
if not keep and os.path.isdir(path):
    os.rmdir(path)
"""


class SocketDirectories:
    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def path(self, name: str) -> Path:
        """The path of a directory, the same on the engine's host as here.

        Raises:
            InvalidRequest: the name is a path, or the result is too long for a socket.
        """
        if not name or name in {".", ".."} or "/" in name:
            raise InvalidRequest(f'"{name[:80]}" cannot name a directory of sockets')
        directory = self._client.settings.run_dir / name
        if len(os.fsencode(directory / MAIN)) > MAX_PATH_BYTES:
            raise InvalidRequest(
                f"the path of the socket, {directory / MAIN}, is longer than {MAX_PATH_BYTES} bytes: set VENVD_RUN_DIR "
                "to a shorter one"
            )
        return directory

    def make(self, name: str, mode: int, image: str) -> Path:
        """Make the directory, empty; `image` has Python, for a container that may have to do it."""
        path = self.path(name)
        try:
            self._empty(path)
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, -1, labels.SHARED_GID)
            path.chmod(mode)
        except PermissionError:
            self._run_in_container(_MAKE, [f"{_MOUNT_POINT}/{name}", os.geteuid(), labels.SHARED_GID, mode], image)
        return path

    def remove(self, name: str, image: str | None, *, keep: bool = False) -> None:
        """Remove the directory with its content; with `keep` it stays, empty, for the containers that mount it."""
        path = self.path(name)
        try:
            self._empty(path)
            with contextlib.suppress(FileNotFoundError):
                if not keep:
                    path.rmdir()
        except PermissionError:
            if image is None:
                raise
            self._run_in_container(_REMOVE, [f"{_MOUNT_POINT}/{name}", keep], image)

    @staticmethod
    def _empty(path: Path) -> None:
        for entry in path.iterdir() if path.exists() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _run_in_container(self, code: str, arguments: list[Any], image: str) -> None:
        run_dir = self._client.settings.run_dir
        with self._client.temporary_container(
            image,
            labels=self._client.labels(labels.HELPER),
            memory_bytes=128 << 20,
            cpus=1,
            processes=16,
            mounts=[Mount(_MOUNT_POINT, str(run_dir), type="bind")],
            capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"),
            command=["python3", "-I", "-S", "-c", code, json.dumps(arguments)],
            user="0:0",
        ) as container:
            try:
                self._client.api.start(container)
            except docker.errors.NotFound as error:
                raise Internal(f"the run directory {run_dir} does not exist on the engine's host: {error}") from None
            if self._client.api.wait(container, timeout=60)["StatusCode"] != 0:
                output = self._client.read_logs(container, stderr=True)
                raise Internal(f"could not change the directories in {run_dir}: {output[-500:]}")
