"""The files of secrets of servers. Each is in a separate tmpfs, which only the server's container mounts.

The tmpfs is a volume. The engine mounts it when the container starts, and unmounts it when the container ends. The
secrets end with the mount, and they are on no disk. So this process writes the file through the engine's API once the
container runs, and the server waits for it.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Mapping

import docker.errors
from docker.types import Mount

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

INSIDE = "/run/venvd/secrets"
FILE = "secrets.json"

_VOLUME_BYTES = 4 << 20
"""Twice what a venv and a backend may have: a new file needs room beside the old one."""


class SecretFiles:
    """Makes, writes and removes the files of secrets."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def make(self, launch_id: str, volume_labels: Mapping[str, str]) -> Mount:
        """Make the volume for a new server, and return its mount."""
        name = labels.part_name(launch_id, labels.SECRETS)
        options = f"uid={labels.SERVER_UID},gid={labels.SHARED_GID},mode=0700,size={_VOLUME_BYTES}"
        self._client.api.create_volume(
            name,
            driver_opts={"type": "tmpfs", "device": "tmpfs", "o": f"{options},nosuid,nodev,noexec"},
            labels=dict(volume_labels),
        )
        return Mount(INSIDE, name, type="volume", no_copy=True)

    def write(self, launch_id: str, data: bytes) -> None:
        """Write the file of a server whose container runs."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(FILE)
            entry.size, entry.mode = len(data), 0o400
            entry.uid, entry.gid = labels.SERVER_UID, labels.SHARED_GID
            archive.addfile(entry, io.BytesIO(data))
        self._client.api.put_archive(labels.part_name(launch_id, labels.SERVER), INSIDE, buffer.getvalue())

    def remove(self, launch_id: str) -> None:
        """Remove the volume after its container. A missing volume is not an error."""
        with contextlib.suppress(docker.errors.NotFound):
            self._client.api.remove_volume(labels.part_name(launch_id, labels.SECRETS))
