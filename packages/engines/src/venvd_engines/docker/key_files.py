"""The key files of servers. Each server has a subdirectory of the run directory, mounted read-only into its container.

One file contains the digests of the keys that clients may send; it changes. Another one contains the key with which the
server of a backend manages venvs. It is not in the environment, since all who may inspect a container read that.

Server and worker host share no mount but the channel, so user code never sees a key file. A bind mount of a file would
keep the first file for ever. So the engine mounts the directory, and a new file replaces the old one by name.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from docker.types import Mount

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.socket_directories import SocketDirectories

INSIDE = "/run/venvd/keys"
FILE = "keys.json"
MANAGES_FILE = "manages.key"

_MODE = 0o2750
"""The mode of the parent directory: all that is made in it belongs to the group of the servers."""


class KeyFiles:
    """Makes, replaces and removes key files."""

    def __init__(self, client: DockerClient, directories: SocketDirectories) -> None:
        self._name = f"keys-{client.settings.home_id}"
        self._root = client.settings.run_dir / self._name
        self._directories = directories

    def make(self, launch_id: str, data: bytes, manages_key: str | None, image: str) -> Mount:
        """Write the key files of a new server, and return the mount of their directory.

        Args:
            launch_id: names the directory.
            data: the content of the file with the digests.
            manages_key: the content of the other file; None makes none.
            image: an image with Python, for the container that makes the parent directory if this process may not.
        """
        if not self._is_shared():
            self._directories.share(self._name, _MODE, image)
        directory = self._root / launch_id
        directory.mkdir(exist_ok=True)
        directory.chmod(0o750)
        self._write(directory / FILE, data)
        if manages_key is not None:
            self._write(directory / MANAGES_FILE, manages_key.encode())
        return Mount(INSIDE, str(directory), type="bind", read_only=True)

    def replace(self, launch_id: str, data: bytes) -> bool:
        """Replace a key file in one step. Return False if its directory does not exist."""
        directory = self._root / launch_id
        if not directory.is_dir():
            return False
        try:
            self._write(directory / FILE, data)
        except FileNotFoundError:  # another call removes the directory at this moment
            return False
        return True

    def remove(self, launch_id: str) -> None:
        """Remove the key files of a launch with their directory. A missing directory is not an error."""
        shutil.rmtree(self._root / launch_id, ignore_errors=True)

    def _is_shared(self) -> bool:
        try:
            status = self._root.stat()
        except FileNotFoundError:
            return False
        return status.st_gid == labels.SHARED_GID and stat.S_IMODE(status.st_mode) == _MODE

    def _write(self, path: Path, data: bytes) -> None:
        # made in the parent directory, so that it gets the group of that
        part = self._root / f".{path.parent.name}.{os.urandom(4).hex()}"
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o640)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
