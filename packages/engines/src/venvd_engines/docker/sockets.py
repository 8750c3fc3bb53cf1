"""The directories of sockets that clients use: subdirectories of the run directory.

A directory belongs to the owner of the home and to the group that servers are in. Where this process may not make it
so (it is neither root nor in that group, or the run directory is root's), a container does it.
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
from venvd_engines.docker import hardening, labels
from venvd_engines.docker.site import Site

INSIDE = "/run/venvd/socket"
MAIN, PROBES = "pipe.sock", "http.sock"
LONGEST_PATH = 107
"""Bytes of a socket's path, which the kernel bounds."""

OPEN, CLOSED = 0o2775, 0o2770
SOCKET_MODE = "0666"
"""The directory is the guard: a server without capabilities cannot give its sockets another owner."""

_PLACE = "/run/venvd/run"
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
    def __init__(self, site: Site) -> None:
        self._site = site

    def path(self, name: str) -> Path:
        """Where the directory of this name lies, on the host as here.

        Raises:
            InvalidRequest: the name is none, or the path too long for a socket.
        """
        if not name or name in {".", ".."} or "/" in name:
            raise InvalidRequest(f'"{name[:80]}" is no name of a directory of sockets')
        found = self._site.settings.run_dir / name
        if len(os.fsencode(found / MAIN)) > LONGEST_PATH:
            raise InvalidRequest(
                f"the path of the socket, {found / MAIN}, is longer than {LONGEST_PATH} bytes: set VENVD_RUN_DIR to a "
                "shorter one"
            )
        return found

    def make(self, name: str, mode: int, image: str) -> Path:
        """The directory, empty; `image` is one with Python, should a container have to make it."""
        path = self.path(name)
        try:
            self._empty(path)
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, -1, labels.SHARED_GID)
            path.chmod(mode)
        except PermissionError:
            self._by_container(_MAKE, [f"{_PLACE}/{name}", os.geteuid(), labels.SHARED_GID, mode], image)
        return path

    def remove(self, name: str, image: str | None, *, keep: bool = False) -> None:
        """Remove the directory with what is in it; with `keep` it stays, empty, for those who have it mounted."""
        path = self.path(name)
        try:
            self._empty(path)
            with contextlib.suppress(FileNotFoundError):
                if not keep:
                    path.rmdir()
        except PermissionError:
            if image is None:
                raise
            self._by_container(_REMOVE, [f"{_PLACE}/{name}", keep], image)

    @staticmethod
    def _empty(path: Path) -> None:
        for entry in path.iterdir() if path.exists() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _by_container(self, code: str, arguments: list[Any], image: str) -> None:
        site = self._site
        mount = Mount(_PLACE, str(site.settings.run_dir), type="bind")
        config = hardening.host_config(
            site.api,
            memory_bytes=128 << 20,
            cpus=1,
            processes=16,
            mounts=[mount],
            capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"),
        )
        command = ["python3", "-I", "-S", "-c", code, json.dumps(arguments)]
        wanted = site.labels(labels.HELPER)
        container = hardening.neutral(site.api, image, config=config, labels=wanted, command=command, user="0:0")
        try:
            site.api.start(container)
            if site.api.wait(container, timeout=60)["StatusCode"] != 0:
                said = site.api.logs(container).decode("utf-8", "replace")
                raise Internal(f"could not change the directories in {site.settings.run_dir}: {said[-500:]}")
        except docker.errors.NotFound as error:
            raise Internal(f"the run directory {site.settings.run_dir} is not on the engine's host: {error}") from None
        finally:
            site.remove_container(container)
