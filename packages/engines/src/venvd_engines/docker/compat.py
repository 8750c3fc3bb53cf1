"""Pipes by name on the docker engine. If only root may make or remove a link, a container does it."""

from __future__ import annotations

from pathlib import Path

from venvd_contract.errors import Conflict
from venvd_engines import compat
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.root_work import MOUNT_POINT, run_as_root

_MAKE_CODE = """
import json, os, sys
path, old, target = json.loads(sys.argv[1])
if old is not None and os.path.islink(path) and os.readlink(path) == old:
    os.unlink(path)
try:
    os.symlink(target, path)
except FileExistsError:
    sys.exit(3)
os.lchown(path, os.stat(os.path.dirname(path)).st_uid, -1)
"""
_TAKEN = 3
"""The exit status of `_MAKE_CODE` if the path exists already."""
_REMOVE_CODE = """
import json, os, sys
path, target = json.loads(sys.argv[1])
if os.path.islink(path) and os.readlink(path) == target:
    os.unlink(path)
"""


class PipeNames:
    """Makes and removes the links of pipes."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def find(self, pipe_name: str) -> Path:
        """Return the path of a pipe's link. It is the same here and on the engine's host."""
        return compat.find_link(self._client.settings.pipe_name_dir, pipe_name)

    def make(self, link: Path, socket: Path, image: str) -> None:
        """Link a pipe's name to its socket, as `compat.make_link` does; `image` has Python."""
        try:
            compat.make_link(link, socket)
        except PermissionError:
            old = compat.read_link(link, socket)
            arguments = [f"{MOUNT_POINT}/{link.name}", None if old is None else str(old), str(socket)]
            taken = Conflict(compat.describe_use(link))
            run_as_root(self._client, link.parent, _MAKE_CODE, arguments, image, {_TAKEN: taken})

    def remove(self, link: Path, socket: Path, image: str | None) -> None:
        """Remove a link that leads to `socket`. Another link stays."""
        try:
            compat.remove_link(link, socket)
        except PermissionError:
            if image is None:
                raise
            arguments = [f"{MOUNT_POINT}/{link.name}", str(socket)]
            run_as_root(self._client, link.parent, _REMOVE_CODE, arguments, image)
