"""Volumes that this process fills once and containers mount read-only: the worker archive, and the tools of builds."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable, Mapping

import docker.errors
from docker.types import Mount

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

MOUNT_POINT = "/fill"
_MARK = ".complete"


class FilledVolumes:
    """Named volumes of this home, by role and version.

    A volume is full once it has a mark. The mark is written last, so a half-filled volume of a killed process has none.
    """

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._filled: set[str] = set()
        self._lock = threading.Lock()

    def ensure(
        self,
        role: str,
        version: str,
        read_files: Callable[[], Mapping[str, bytes]],
        image: str,
        *,
        mode: int = 0o444,
        finish: Callable[[str], None] | None = None,
    ) -> str:
        """Return the name of the volume with the files; make and fill it if needed.

        Args:
            role: the value of the volume's role label.
            version: a text that changes with the content.
            read_files: returns the files; called if the volume is not full.
            image: any image that exists; a container of it gives access to the volume.
            mode: the mode of the files.
            finish: called with the name of the volume once the files are in it, before it counts as full.
        """
        name = f"venvd-{self._client.settings.home_id}-{role}-{version}"
        with self._lock:
            if name not in self._filled or not self._exists(name):
                self._client.api.create_volume(name, labels=self._client.labels(role))
                self._fill(name, read_files, image, mode, finish)
                self._filled.add(name)
        return name

    def _fill(
        self,
        name: str,
        read_files: Callable[[], Mapping[str, bytes]],
        image: str,
        mode: int,
        finish: Callable[[str], None] | None,
    ) -> None:
        """Copy the files in through a container that never starts."""
        api = self._client.api
        with self._client.temporary_container(
            image,
            labels=self._client.labels(labels.HELPER),
            memory_bytes=64 << 20,
            cpus=1,
            processes=16,
            mounts=[Mount(MOUNT_POINT, name, type="volume", no_copy=True)],
            command=["true"],
        ) as container:
            try:
                stream, _ = api.get_archive(container, f"{MOUNT_POINT}/{_MARK}")
            except docker.errors.NotFound:
                api.put_archive(container, MOUNT_POINT, _tar(read_files(), mode))
                if finish is not None:
                    finish(name)
                api.put_archive(container, MOUNT_POINT, _tar({_MARK: b""}, mode))
            else:
                for _ in stream:  # read the stream to its end, so that the connection is free again
                    pass

    def _exists(self, name: str) -> bool:
        try:
            self._client.api.inspect_volume(name)
        except docker.errors.NotFound:
            return False
        return True

    def remove_stale(self) -> None:
        """Remove the volumes of this home that no container uses and this process has not filled."""
        for role in (labels.TOOLS, labels.ARCHIVE, labels.HELPER):
            for volume in self._client.api.volumes(self._client.filters(role))["Volumes"] or ():
                if volume["Name"] not in self._filled:
                    with contextlib.suppress(docker.errors.APIError):
                        self._client.api.remove_volume(volume["Name"])

    def list_current(self) -> set[str]:
        """Return the volumes that this process has filled or found full: those of its version."""
        with self._lock:
            return set(self._filled)

    def remove(self, name: str) -> None:
        """Remove a volume that no container uses."""
        with self._lock, contextlib.suppress(docker.errors.NotFound):
            self._filled.discard(name)
            self._client.api.remove_volume(name)


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
